"""Stores that lack a checksum or a condition: uploads are proven otherwise, and nothing wrong is removed."""

from __future__ import annotations

import logging

import pytest

from marlin_ckpt import StorageError
from marlin_ckpt.cli.main import main
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.s3 import client
from marlin_ckpt.storage.s3.sums import Sums
from tests.support.faulty_proxy import Canned, Fault, Request
from tests.support.s3_stores import DATA, opened, read, write

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def store(s3: str, proxy, monkeypatch: pytest.MonkeyPatch):
    """An empty prefix, reached through the proxy by a client that knows nothing of its store yet."""
    monkeypatch.setattr(client, "_clients", {})
    with opened(s3, proxy.endpoint) as one:
        yield one


def r2(request: Request) -> Canned | None:
    """Cloudflare R2: CRC32 of parts alone, and conditions of writes alone."""
    if request.headers.get("x-amz-checksum-type") == "FULL_OBJECT":
        return Canned.error(400, "InvalidRequest", "FULL_OBJECT is not known for CRC32")
    if request.method == "DELETE" and "if-match" in request.headers:
        return Canned.error(501, "NotImplemented", "Header 'If-Match' not implemented")
    if request.kind == "CopyObject" and "if-none-match" in request.headers:
        return Canned.error(501, "NotImplemented", "Header 'If-None-Match' not implemented")
    return None


def b2(request: Request) -> Canned | None:
    """Backblaze B2: no CRC32, and no conditions."""
    for name in request.headers:
        if name.startswith(("x-amz-checksum-", "x-amz-sdk-checksum")) and name != "x-amz-checksum-mode":
            return Canned.error(400, "InvalidArgument", f"Unsupported header '{name}' received")
    if request.method != "GET" and {"if-match", "if-none-match"} & {*request.headers}:
        return Canned.error(501, "NotImplemented", "A header you provided is not implemented")
    return None


@pytest.mark.parametrize(("rule", "sums"), [(r2, Sums.PARTS), (b2, Sums.MD5)])
@pytest.mark.parametrize("data", [DATA, b"short"], ids=["parts", "short"])
def test_an_upload_is_checked_by_what_the_store_knows(store, proxy, rule, sums, data):
    store._client.settings.conditional = "allow-without" if rule is b2 else "require"
    store.guard = lambda: None  # all are uploads
    proxy.rule = rule
    write(store, data=data)
    assert (read(store), store._client.sums) == (data, sums)
    asked = len(proxy.seen)
    write(store, "model_2.pt", data)  # what was refused is not asked for again
    assert not any(rule(one) for one in proxy.seen[asked:])
    last = [one for one in proxy.seen if one.kind == "UploadPart"][-1]
    assert ("content-md5" in last.headers) == (sums is Sums.MD5)
    assert ("x-amz-checksum-crc32" in last.headers) == (sums is Sums.PARTS)


@pytest.mark.parametrize("rule", [r2, b2])
@pytest.mark.parametrize("is_in_parts", [True, False])
def test_a_bit_that_flips_on_the_way_to_such_a_store_is_refused_and_sent_again(
    store, proxy, rule, is_in_parts
):
    store._client.settings.conditional = "allow-without"
    kind = "UploadPart" if is_in_parts else "PutObject"
    flipped = []

    def flips(request: Request):
        refused = rule(request)
        if refused is None and request.kind == kind and not flipped:
            flipped.append(request)
            return Fault.FLIPPED_UP
        return refused

    proxy.rule = flips
    data = DATA if is_in_parts else b"short"
    write(store, data=data)
    assert (len(flipped), read(store)) == (1, data)


def test_a_refusal_for_another_reason_leaves_the_checksums_and_says_why(store, proxy):
    proxy.rule = lambda one: (
        Canned.error(400, "InvalidArgument", "no such class") if one.kind == "PutObject" else None
    )
    with pytest.raises(StorageError, match="InvalidArgument, no such class"):
        write(store, data=b"short")
    assert store._client.sums is Sums.WHOLE


def test_a_store_that_says_nothing_of_a_checksum_of_the_whole_is_not_sent_one(store, proxy, monkeypatch):
    control = store._client.control
    begin = control.create_multipart_upload
    monkeypatch.setattr(control, "create_multipart_upload", lambda **how: begin(**how) | {"ChecksumType": ""})
    write(store)
    assert read(store) == DATA
    (commit,) = [one for one in proxy.seen if one.kind == "CompleteMultipartUpload"]
    assert "x-amz-checksum-crc32" not in commit.headers


def test_an_object_that_is_shorter_in_the_store_than_what_was_sent_is_an_error_where_no_sum_says_so(
    store, proxy, monkeypatch
):
    proxy.rule = r2
    control = store._client.control
    look = control.head_object
    monkeypatch.setattr(control, "head_object", lambda **how: {**look(**how), "ContentLength": 3})
    with pytest.raises(StorageError, match=f"the store has 3 of {len(DATA):,} bytes"):
        write(store)


def test_a_store_without_conditional_removal_removes_and_moves_what_is_unchanged_and_says_so(
    store, proxy, caplog
):
    item = write(store, data=b"short")
    proxy.rule = r2
    with caplog.at_level(logging.WARNING):
        store.move("model_1.pt", ".trash/model_1.pt", item.identity)
        moved = store.head(".trash/model_1.pt")
        store.remove(moved.name, moved.identity)
    assert (store.head("model_1.pt"), store.head(moved.name)) == (None, None)
    said = [one.getMessage() for one in caplog.records]
    assert ["CopyObject" in said[0], "DeleteObject" in said[1], len(said)] == [True, True, 2]
    asked = proxy.kinds()
    asked = asked[: len(asked) - asked[::-1].index("DeleteObject")]
    for kind in ("CopyObject", "DeleteObject"):  # the look is the request before
        at = max(number for number, one in enumerate(asked) if one == kind)
        assert proxy.seen[at - 1].kind == "HeadObject"


@pytest.mark.parametrize("moves", [True, False])
def test_a_store_without_conditional_removal_does_not_remove_what_has_taken_the_place(
    store, s3, s3_endpoint, proxy, moves
):
    """The other writer comes between our first look and the request that the store refuses."""
    item = write(store, data=b"short")
    taken = ".trash/model_1.pt" if moves else "model_1.pt"

    def replaced(request: Request):
        refused = r2(request)
        if refused is not None:
            with opened(s3, s3_endpoint) as other:
                write(other, taken, b"the other's", replaces=None if moves else item.identity)
        return refused

    proxy.rule = replaced
    with pytest.raises(StorageError, match="File exists" if moves else "taken its place"):
        if moves:
            store.move("model_1.pt", taken, item.identity)
        else:
            store.remove("model_1.pt", item.identity)
    assert read(store, taken) == b"the other's"
    assert store.head("model_1.pt") is not None


def test_a_store_that_ignores_conditions_of_removal_is_not_asked_to_remove_what_has_taken_the_place(
    store, proxy
):
    item = write(store, data=b"short")
    write(store, data=b"the other's", replaces=item.identity)
    for change in (store.remove, lambda name, identity: store.move(name, ".trash/x", identity)):
        with pytest.raises(StorageError, match="taken its place"):
            change("model_1.pt", item.identity)
    assert not {"DeleteObject", "CopyObject"} & {*proxy.kinds()}


@pytest.mark.parametrize("kind", ["PutObject", "CompleteMultipartUpload"])
@pytest.mark.parametrize("condition", ["if-match", "if-none-match"])
def test_a_store_that_ignores_one_condition_of_one_request_is_noticed(store, proxy, kind, condition):
    write(store, "model_1.pt", b"{}")
    store.check_conditions("model_1.pt")
    assert (
        store._client.control.list_multipart_uploads(Bucket="bucket", Prefix=store._prefix).get("Uploads", [])
        == []
    )
    xml = b"<CompleteMultipartUploadResult><ETag>&quot;x&quot;</ETag></CompleteMultipartUploadResult>"
    written = Canned(200, b"" if kind == "PutObject" else xml, {"ETag": '"x"'})
    proxy.rule = lambda one: written if one.kind == kind and condition in one.headers else None
    with pytest.raises(StorageError, match="the store ignores conditions") as caught:
        store.check_conditions("model_1.pt")
    assert "allow-without" in caught.value.hint


def test_a_store_that_refuses_conditions_says_what_to_set(store, proxy):
    proxy.rule = b2
    with pytest.raises(StorageError, match="NotImplemented") as caught:
        write(store, data=b"short")
    assert "allow-without" in caught.value.hint


@pytest.mark.parametrize("is_leased", [False, True])
def test_where_a_store_has_no_conditions_things_are_moved_without_a_lease_unless_a_run_holds_one_there(
    store, s3, proxy, caplog, is_leased
):
    paths.use(s3, store._client.settings)
    write(store, data=b"short")
    if is_leased:
        write(store, ".marlin-ckpt/lease.json", b"{}")
    proxy.rule = b2
    code = main(["clean", s3, "--to-trash", "--yes"])
    assert (code, store.list().objects) == ((1, ("model_1.pt",)) if is_leased else (0, ()))
    assert ("There is no lease of" in caplog.text) is not is_leased
