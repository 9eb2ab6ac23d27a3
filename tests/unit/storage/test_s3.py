"""What is particular to a store in a bucket: lost answers, damage on the way, other writers, secrets."""

from __future__ import annotations

import errno
import functools
import gc
import logging
import os
import pickle
import traceback
import zlib

import pytest

from marlin_ckpt import CheckpointNotFoundError, StorageError
from marlin_ckpt.remote import RemoteArguments
from marlin_ckpt.storage.s3 import client, retrying
from marlin_ckpt.storage.s3.sums import base64_of
from marlin_ckpt.storage.s3.uploading.parts import part_bytes
from marlin_ckpt.storage.source import read_each
from tests.support import s3_servers
from tests.support.faulty_proxy import Fault, always, once
from tests.support.s3_stores import DATA, MIB, opened, read, write

TOKEN = "marlintoken0123456789"
LONGER = DATA + DATA  # three parts
WRITES = ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.mark.parametrize("data", [LONGER, b"small", b""], ids=["parts", "small", "empty"])
def test_what_is_written_is_read(store, data: bytes):
    item = write(store, data=data)
    assert (item.size_bytes, read(store)) == (len(data), data)
    assert store.unfinished() == ()


def test_small_stretches_that_are_near_one_another_are_read_by_one_request(store, proxy):
    write(store, data=LONGER)
    places = [(0, 10), (30 << 10, 300), (4 * MIB, 50), (4 * MIB + 50, 70), (5 * MIB, 9), (len(LONGER) - 5, 5)]
    with store.open("model_1.pt") as source:
        proxy.reset()
        found = list(read_each(source, places, lambda place: place))
    assert found == [((start, size), LONGER[start : start + size]) for start, size in places]
    assert proxy.kinds() == ["GetObject"] * 3  # the last is in the end, which was read when it was opened


def test_parts_have_one_size_but_for_the_last_and_their_checksum_is_the_servers(store, s3: str):
    write(store, data=LONGER)
    key = f"{s3.rpartition('/')[2]}/model_1.pt"
    about = store._client.control.head_object(Bucket=s3_servers.BUCKET, Key=key, ChecksumMode="ENABLED")
    assert (about["ContentLength"], about["ChecksumType"]) == (len(LONGER), "FULL_OBJECT")
    assert about["ChecksumCRC32"] == base64_of(zlib.crc32(LONGER))


@pytest.mark.parametrize("kind", [*WRITES, "HeadObject"])
@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.SLOW_DOWN])
def test_a_save_in_parts_survives_the_loss_of_any_request_and_of_any_answer(
    store, proxy, kind: str, fault: Fault
):
    proxy.rule = once(kind, fault)
    write(store)
    assert read(store) == DATA


@pytest.mark.parametrize(
    "fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.SLOW_DOWN, Fault.FLIPPED_UP, Fault.CUT_UP]
)
@pytest.mark.parametrize("replaces", [False, True], ids=["new", "over an old one"])
def test_a_small_save_survives_the_loss_of_a_request_and_of_its_answer(
    store, proxy, fault: Fault, replaces: bool
):
    old = write(store, data=b"old").identity if replaces else None
    proxy.seen.clear()
    proxy.rule = once("PutObject", fault)
    write(store, data=b"new", replaces=old)
    assert read(store) == b"new"
    assert proxy.kinds().count("PutObject") == 2


def test_a_bit_that_flips_on_the_way_up_is_refused_by_the_server_and_sent_again(store, proxy):
    proxy.rule = once("UploadPart", Fault.FLIPPED_UP, number=1)
    write(store)
    assert read(store) == DATA
    assert proxy.kinds().count("UploadPart") == 3


@pytest.mark.parametrize(
    "kind", ["ListObjects", "HeadObject", "DeleteObject", "CopyObject", "ListMultipartUploads"]
)
def test_looking_moving_and_removing_survive_the_loss_of_an_answer(store, proxy, kind: str):
    item = write(store, data=b"data")
    proxy.rule = once(kind, Fault.LOST_ANSWER, sum(one == kind for one in proxy.kinds()))
    assert store.list().objects == ("model_1.pt",)
    assert store.unfinished() == ()
    store.move("model_1.pt", ".trash/model_1.pt", item.identity)
    moved = store.head(".trash/model_1.pt")
    assert moved.size_bytes == 4
    store.remove(moved.name, moved.identity)
    assert store.head(moved.name) is None


def test_a_server_that_is_busy_a_third_of_the_time_is_asked_again(store, proxy):
    calls = iter(range(10_000))
    proxy.rule = lambda _: Fault.SLOW_DOWN if next(calls) % 3 == 0 else None
    write(store)
    assert read(store) == DATA


def test_a_store_that_never_has_time_is_an_error_after_the_time_that_was_set(store, proxy, s3: str):
    write(store, data=b"old")
    with opened(s3, proxy.endpoint, give_up_after="0.5s") as hasty:
        proxy.rule = always(".*", Fault.SLOW_DOWN)
        for call in (hasty.list, lambda: read(hasty), lambda: hasty.head("model_1.pt"), lambda: write(hasty)):
            with pytest.raises(StorageError, match=r"(SlowDown|503).*, tried \d+ times") as caught:
                call()
            assert caught.value.errno == errno.ETIMEDOUT
    proxy.rule = lambda _: None
    assert read(store) == b"old"


def test_a_stalled_connection_ends_after_the_timeout(store, proxy, s3: str):
    write(store)
    with opened(s3, proxy.endpoint, timeout="0.5s") as hasty:
        proxy.rule = once("GetObject", Fault.STALLED, 1)
        assert read(hasty) == DATA


def test_an_endpoint_that_is_not_there_is_said_soon(s3: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retrying, "_NEVER_ANSWERED_S", 0.2)
    with (
        opened(s3, f"http://127.0.0.1:{s3_servers.free_port()}") as nobody,
        pytest.raises(StorageError, match="the store cannot be reached") as caught,
    ):
        nobody.list()
    assert "checkpointer.remote.endpoint" in caught.value.hint


def test_a_bucket_that_is_not_there_is_not_an_empty_one(s3_endpoint: str, s3: str):
    with opened("s3://no-such-bucket/run", s3_endpoint) as store:
        for call in (store.list, lambda: read(store), store.unfinished):
            with pytest.raises(StorageError, match="no such bucket"):
                call()


def test_a_clock_that_is_wrong_is_said(store, proxy):
    proxy.rule = always(".*", Fault.SKEWED)
    with pytest.raises(StorageError, match="RequestTimeTooSkewed") as caught:
        store.list()
    assert "clock" in caught.value.hint


@pytest.mark.parametrize("fault", [Fault.EXPIRED, Fault.UNKNOWN_KEY], ids=["expired", "replaced"])
def test_credentials_that_are_refused_are_found_again_once(store, proxy, fault: Fault):
    proxy.rule = once("ListObjects", fault)
    assert store.list().objects == ()
    proxy.rule = once("PutObject", fault)
    write(store, data=b"data")
    proxy.rule = always("ListObjects", fault)
    with pytest.raises(StorageError, match=r"ExpiredToken|InvalidAccessKeyId"):
        store.list()


def test_credentials_that_stay_expired_are_to_be_renewed_by_a_person(store, proxy):
    proxy.rule = always(".*", Fault.EXPIRED)
    with pytest.raises(StorageError, match="ExpiredToken") as caught:
        store.list()
    assert "sign in" in caught.value.hint


def test_two_that_write_one_name_at_the_same_time_do_not_overwrite_each_other(
    store, s3: str, s3_endpoint: str
):
    with opened(s3, s3_endpoint) as other:

        def fill(target):
            target.put(DATA)
            write(other, data=b"the other's")

        with pytest.raises(StorageError) as caught:
            store.publish("model_1.pt", len(DATA), fill)
        assert caught.value.errno == errno.EEXIST
    assert read(store) == b"the other's"
    assert store.unfinished() == ()


def test_what_was_replaced_while_it_is_read_is_an_error_and_never_a_mixture(store):
    first = write(store)
    with store.open("model_1.pt") as source:
        source.read(0, 10)
        write(store, data=b"x" * len(DATA), replaces=first.identity)
        with pytest.raises(StorageError, match="replaced while it was read") as caught:
            source.read(3 * MIB, 4 * MIB)
    assert caught.value.errno == errno.ESTALE


def test_whoever_takes_over_ends_the_uploads_of_a_run_that_comes_back_too_late(
    store, s3: str, s3_endpoint: str
):
    store.guard = lambda: None
    with opened(s3, s3_endpoint) as heir:
        heir.guard = lambda: None

        def stopped_after_its_look_at_the_lease():
            for name in heir.unfinished():
                assert heir.is_abandoned(name)
                heir.remove(name, heir.head(name).identity)

        for data in (b"small", DATA):
            store.guard = stopped_after_its_look_at_the_lease
            with pytest.raises(StorageError, match="another run has taken the directory over"):
                write(store, "model_3.pt", data)
            assert heir.head("model_3.pt") is None


def test_uploads_of_names_in_folders_and_of_other_prefixes_are_not_ours(store, s3: str):
    client, prefix = store._client.control, s3.rpartition("/")[2]
    for key in (f"{prefix}/a/model_1.pt", f"{prefix}x/model_1.pt", f"{prefix}/model_1.pt"):
        client.create_multipart_upload(Bucket=s3_servers.BUCKET, Key=key)
    (name,) = store.unfinished()
    assert name.startswith("model_1.pt?uploadId=")
    store.remove(name, store.head(name).identity)
    assert store.unfinished() == ()


@pytest.mark.parametrize("size_bytes", [0, 1, 9000 * (16 << 20), 9000 * (16 << 20) + 1, 10**12, 5 << 40])
def test_an_object_of_any_length_takes_no_more_parts_than_a_store_allows(size_bytes: int):
    size = part_bytes(RemoteArguments(), size_bytes)
    assert size % MIB == 0
    assert 16 * MIB <= size <= 5 << 30
    assert -(-size_bytes // size) <= 9000


def test_more_names_than_a_page_are_all_listed(store, proxy, monkeypatch: pytest.MonkeyPatch):
    for number in range(7):
        write(store, f"model_{number}.pt", b"x")
    control = store._client.control
    ask = control.list_objects_v2
    monkeypatch.setattr(control, "list_objects_v2", lambda **how: ask(**how, MaxKeys=3))
    assert len(store.list().objects) == 7
    assert proxy.kinds().count("ListObjects") == 3


# The socket of an answer that was cut off is left to the collector, by botocore.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("token", "faults"), [("", (None, *Fault)), (TOKEN, (None,))], ids=["", "token"])
def test_no_key_token_or_signature_is_in_a_log_an_error_or_a_traceback(
    s3: str, proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, token: str, faults
):
    if token:  # that nobody has given out: the server refuses it
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
        monkeypatch.setattr(client, "_clients", {})
    caplog.set_level(logging.DEBUG)
    said = []
    with opened(s3, proxy.endpoint, timeout="0.1s", give_up_after="0.05s") as store:
        for number, fault in enumerate(faults):
            if fault is not None:
                proxy.rule = always("(Get|Head|Put|List|Delete|Create|Upload).*", fault)
            for call in (
                store.list,
                functools.partial(write, store, f"a_{number}.pt"),
                functools.partial(write, store, f"b_{number}.pt", b"x"),
                functools.partial(read, store, "a_0.pt"),
            ):
                try:
                    said.append(repr(call())[:1000])
                except (StorageError, CheckpointNotFoundError) as error:
                    said += [str(error), repr(error), repr(vars(error)), str(pickle.dumps(error))]
                    said.append("".join(traceback.format_exception(error)))
        said += [repr(store), repr(vars(store)), repr(store._client.settings)]
    gc.collect()
    signatures = {one["authorization"].rpartition("Signature=")[2] for one in proxy.headers}
    assert signatures
    everything = "\n".join([caplog.text, *said])
    assert all(one.get("x-amz-security-token", "") == token for one in proxy.headers)
    for secret in (s3_servers.SECRET, TOKEN, s3_servers.KEY, *signatures):
        assert secret not in everything


def test_a_process_that_is_forked_makes_connections_of_its_own(store):
    write(store)
    child = os.fork()
    if not child:
        is_same = False
        try:
            with opened(f"s3://{s3_servers.BUCKET}/{store._prefix}", store._client.settings.endpoint) as own:
                is_same = own._client is not store._client and read(own) == DATA
        finally:
            os._exit(0 if is_same else 1)
    assert read(store) == DATA
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
