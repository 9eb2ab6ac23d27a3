"""What a user reads of each way in which a store refuses: why, and what to do about it, in bounded time."""

from __future__ import annotations

import re

import pytest

from marlin_ckpt import CheckpointNotFoundError, StorageError
from marlin_ckpt.storage.s3 import client, retrying
from marlin_ckpt.storage.s3.uploading import parts
from tests.support.faulty_proxy import Canned, Fault, always
from tests.support.s3_stores import DATA as DATA_IN_PARTS
from tests.support.s3_stores import opened, read, write

pytestmark = pytest.mark.usefixtures("short_pauses")

error = Canned.error
PAGE = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>hello<br></body></html>"
ALL, DATA = ("list", "head", "read", "write"), ("read",)


@pytest.fixture
def calls(s3: str, proxy, monkeypatch: pytest.MonkeyPatch):
    """What can be asked of a store that has never answered, with little patience for one that does not."""
    monkeypatch.setattr(retrying, "_NEVER_ANSWERED_S", 0.05)
    with opened(s3, proxy.endpoint, give_up_after="10m") as store:
        monkeypatch.setattr(store._client, "has_answered", False)
        yield {
            "list": store.list,
            "head": lambda: store.head("model_1.pt"),
            "read": lambda: read(store),
            "write": lambda: write(store, data=b"short"),
        }


@pytest.mark.parametrize(
    ("answer", "asked", "why", "hint"),
    [
        (error(403, "AccessDenied", "no"), ALL, "AccessDenied", "wrong, or may not do this: s3:ListBucket"),
        (error(403, "InvalidAccessKeyId"), ("list", "read"), "InvalidAccessKeyId", "AWS_PROFILE"),
        (error(403, "SignatureDoesNotMatch"), ("list", "read"), "SignatureDoesNotMatch", "secret key"),
        (error(404, "NoSuchBucket"), ("list", "read"), "no such bucket", "make the bucket"),
        (error(400, "InvalidBucketName"), ("list", "read"), "InvalidBucketName", "name of the bucket"),
        (
            error(400, "AuthorizationHeaderMalformed", "expecting 'eu-north-1'"), ("list", "read"),
            "expecting 'eu-north-1'", "region",
        ),
        (error(301, "PermanentRedirect"), ("list", "read"), "PermanentRedirect", "region"),
        (error(403, "InvalidObjectState"), DATA, "InvalidObjectState", "restore it first"),
        (error(507, "XMinioStorageFull"), DATA, "XMinioStorageFull", ""),
        (error(501, "NotImplemented"), ("list", "read"), "NotImplemented", "use another store"),
        (Canned(200, PAGE), ALL, "no S3 store", "endpoint"),
        (Canned(404, PAGE), ("list", "read"), r"no S3 store \(status 404\)", "endpoint"),
        (Canned(403, PAGE), ("list", "read"), r"no S3 store \(status 403\)", "the proxy"),
        (Canned(502, PAGE), ("list", "read"), r"no S3 store \(status 502\)", "the proxy"),
        (Canned(302, PAGE, {"Location": "http://a.example/"}), ("list", "read"), "status 302", "endpoint"),
        (Canned(407), ("list", "read"), "the proxy wants a user and a password", "HTTPS_PROXY"),
    ],
    ids=lambda one: f"{one.status} {one.body[:40]!r}" if isinstance(one, Canned) else "",
)  # fmt: skip
def test_each_refusal_says_why_and_what_to_do(calls, proxy, answer, asked, why, hint):
    proxy.rule = always(".*", answer)
    for name in asked:
        with pytest.raises(StorageError, match=why) as caught:
            calls[name]()
        assert not isinstance(caught.value, CheckpointNotFoundError)
        assert hint in caught.value.hint, name
        assert re.search(r"[<>\n]", str(caught.value)) is None
    assert len(proxy.seen) < 40


def test_a_bucket_in_another_region_is_found_there(s3, proxy, monkeypatch):
    monkeypatch.setattr(client, "_clients", {})
    with opened(s3, proxy.endpoint) as store:
        write(store, data=b"short")
        moved = error(301, "PermanentRedirect", x_amz_bucket_region="us-west-2")
        proxy.rule = lambda one: None if "us-west-2" in one.headers["authorization"] else moved
        assert read(store) == b"short"


def test_credentials_that_may_only_read_are_said_before_the_first_byte_is_sent(s3, proxy):
    denied = error(403, "AccessDenied", "not allowed to s3:PutObject")
    proxy.rule = lambda one: denied if one.method in ("PUT", "POST") else None
    with opened(s3, proxy.endpoint) as store, pytest.raises(StorageError, match="PutObject") as caught:
        store.guard = lambda: None
        write(store)
    assert "s3:PutObject" in caught.value.hint
    assert "UploadPart" not in proxy.kinds()


@pytest.mark.parametrize("more", [b"", b"<{0}>same</{0}>"], ids=["no mark", "the same again"])
@pytest.mark.parametrize(
    ("kind", "result", "mark", "asks"),
    [
        ("ListObjects", b"ListBucketResult", b"NextContinuationToken", "list"),
        ("ListMultipartUploads", b"ListMultipartUploadsResult", b"NextUploadIdMarker", "unfinished"),
    ],
)
def test_a_page_that_is_not_the_last_and_does_not_say_what_comes_next_is_an_error(
    s3, proxy, kind, result, mark, asks, more
):
    mark = more.replace(b"{0}", mark)
    page = b"<%b><IsTruncated>true</IsTruncated>%b</%b>" % (result, mark, result)
    answer = Canned(200, page, {"Content-Type": "application/xml"})
    proxy.rule = lambda one: answer if one.number < 5 else error(403, "AccessDenied", "asked without end")
    with opened(s3, proxy.endpoint) as store, pytest.raises(StorageError) as caught:
        getattr(store, asks)()
    assert "the store answers that there is more, and not where it goes on" in str(caught.value)
    assert "endpoint" in caught.value.hint
    assert proxy.kinds() == [kind] * (2 if more else 1)


@pytest.mark.parametrize("data", [b"short", DATA_IN_PARTS], ids=["short", "parts"])
def test_a_save_of_which_no_more_answers_come_says_that_it_may_be_there_and_how_to_find_out(s3, proxy, data):
    proxy.rule = always("PutObject|CompleteMultipartUpload|HeadObject", Fault.LOST_ANSWER)
    with opened(s3, proxy.endpoint, give_up_after="0.1s") as store:
        store._client.has_answered = True
        with pytest.raises(StorageError, match="whether it is stored is not known") as caught:
            write(store, data=data)
        assert f"marlin-ckpt verify {s3}/model_1.pt tells" in caught.value.hint
        proxy.reset()
        assert read(store) == data


def test_a_save_whose_length_is_to_be_compared_and_cannot_be_says_so(s3, proxy, monkeypatch):
    monkeypatch.setattr(parts.Upload, "is_proven", False)
    proxy.rule = always("HeadObject", Fault.SLOW_DOWN)
    with opened(s3, proxy.endpoint, give_up_after="0.1s") as store:
        with pytest.raises(StorageError, match="whether all of it is stored is not known") as caught:
            write(store, data=b"short")
        assert f"marlin-ckpt verify {s3}/model_1.pt tells" in caught.value.hint
