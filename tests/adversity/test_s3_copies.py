"""What happens to an object while the store is to copy parts of the one before: it is right all the same."""

from __future__ import annotations

import logging
import os
import signal
import uuid

import pytest
from xxhash import xxh3_128

from marlin_ckpt import StorageError
from marlin_ckpt.storage.s3 import client
from marlin_ckpt.storage.s3.uploading import sending
from marlin_ckpt.storage.target import Blocks, Earlier
from tests.support import s3_servers
from tests.support.faulty_proxy import Canned, Fault, Request, always, once
from tests.support.s3_stores import MIB, opened, read

pytestmark = pytest.mark.usefixtures("short_pauses")

FROZEN = os.urandom(16 * MIB)
COPY, COMMIT = "UploadPartCopy", "CompleteMultipartUpload"


@pytest.fixture(scope="module")
def first(s3_endpoint: str) -> tuple[str, Blocks]:
    """A prefix, and an object in it from which the others are copied."""
    url = f"s3://{s3_servers.BUCKET}/{uuid.uuid4().hex}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_servers.environment(s3_endpoint).items():
            patch.setenv(name, value)
        with opened(url, s3_endpoint) as store:
            save(store, one := Earlier(xxh3_128), 1)
    return url, one.last


@pytest.fixture
def store(s3: str, proxy, first, monkeypatch: pytest.MonkeyPatch):
    """The prefix, reached through the proxy by a client that knows nothing of its store yet."""
    monkeypatch.setattr(client, "_clients", {})
    with opened(first[0], proxy.endpoint) as one:
        yield one
        for name in {*one.list().objects} - {"model_1.pt"}:
            one.remove(name, one.head(name).identity)


@pytest.fixture
def earlier(store, first) -> Earlier:
    one = Earlier(xxh3_128)
    one.last = first[1]
    return one


def content(number: int) -> list[bytes]:
    return [b"%07d" % number * (MIB // 8), FROZEN, b"%d" % number]


def save(store, earlier: Earlier, number: int) -> None:
    records = content(number)

    def fill(target) -> None:
        for record in records:
            target.put(record)

    store.publish(f"model_{number}.pt", sum(map(len, records)), fill, earlier=earlier)


def is_right(store, number: int) -> bool:
    return read(store, f"model_{number}.pt") == b"".join(content(number))


def tries(proxy) -> int:
    """How often an object was uploaded since the proxy was asked last."""
    found = proxy.kinds().count("CreateMultipartUpload")
    proxy.reset()
    return found


@pytest.mark.parametrize("fault", [Fault.SLOW_DOWN, Fault.LOST_ANSWER, Fault.ERROR_IN_200])
def test_a_copy_of_which_a_request_or_an_answer_is_lost_is_asked_for_again(store, earlier, proxy, fault):
    proxy.rule = once(COPY, fault)
    save(store, earlier, 2)
    assert proxy.kinds().count(COPY) == 2
    assert tries(proxy) == 1
    assert is_right(store, 2)


REFUSALS = {
    "NotImplemented": Canned.error(501, "NotImplemented"),
    "AccessDenied": Canned.error(403, "AccessDenied"),
    "no store": Canned(405, b"<html>"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_store_that_copies_no_parts_is_sent_all_and_asked_but_once(store, earlier, proxy, caplog, refusal):
    with caplog.at_level(logging.INFO, "marlin_ckpt.storage"):
        for number in (2, 3):
            proxy.rule = always(COPY, REFUSALS[refusal])
            save(store, earlier, number)
            assert tries(proxy) == 4 - number
            assert is_right(store, number)
    assert [
        one.getMessage().partition(" (")[0] for one in caplog.records if "copies" in one.getMessage()
    ] == ["The store copies no parts of objects"]
    assert store.unfinished() == ()


def test_a_store_that_wants_parts_of_one_length_gets_them(store, earlier, proxy):
    proxy.rule = once(COMMIT, Canned.error(400, "InvalidPart", "All parts must have the same length"))
    for number in (2, 3):
        save(store, earlier, number)
        assert tries(proxy) == 4 - number
        assert is_right(store, number)


@pytest.mark.parametrize("goes", [True, False], ids=["gone", "replaced"])
def test_an_object_that_goes_or_is_replaced_while_it_is_copied_is_copied_no_more(
    store, earlier, proxy, first, s3_endpoint, goes
):
    save(store, earlier, 4)
    proxy.reset()

    def rule(request: Request) -> None:
        if request.kind == COPY:
            proxy.rule = lambda _: None
            with opened(first[0], s3_endpoint) as other:
                identity = other.head("model_4.pt").identity
                if goes:
                    other.remove("model_4.pt", identity)
                else:
                    other.publish("model_4.pt", 9, lambda target: target.put(FROZEN), replaces=identity)

    proxy.rule = rule
    save(store, earlier, 2)
    assert tries(proxy) == 2
    assert is_right(store, 2)
    save(store, earlier, 3)  # of the new one
    assert proxy.kinds().count(COPY) == tries(proxy) == 1
    assert is_right(store, 3)


def test_a_copy_that_the_store_says_has_other_bytes_is_sent(store, earlier, proxy):
    other = b"<CopyPartResult><ETag>x</ETag><ChecksumCRC32>AAAAAA==</ChecksumCRC32></CopyPartResult>"
    proxy.rule = always(COPY, Canned(200, other))
    save(store, earlier, 2)
    assert tries(proxy) == 2
    assert is_right(store, 2)


def test_a_store_that_has_no_time_to_copy_is_sent_the_bytes_and_asked_the_next_time(
    store, earlier, proxy, monkeypatch
):
    monkeypatch.setattr(sending, "_COPY_PATIENCE_S", 0.1)
    proxy.rule = always(COPY, Fault.SLOW_DOWN)
    save(store, earlier, 2)
    assert tries(proxy) == 2
    assert is_right(store, 2)
    save(store, earlier, 3)
    assert tries(proxy) == 1
    assert is_right(store, 3)


def test_a_store_that_sums_nothing_that_it_copies_is_asked_how_long_the_object_is(store, earlier, proxy):
    def rule(request: Request) -> Canned | None:
        names = [
            name for name in request.headers if name.startswith(("x-amz-checksum-", "x-amz-sdk-checksum"))
        ]
        return Canned.error(400, "InvalidArgument") if {*names} - {"x-amz-checksum-mode"} else None

    proxy.rule = rule
    save(store, earlier, 2)
    assert proxy.kinds()[-2:] == [COMMIT, "HeadObject"]
    assert COPY in proxy.kinds()
    proxy.reset()
    assert is_right(store, 2)


def test_whoever_takes_over_ends_an_upload_with_copies_and_it_is_not_begun_anew(
    store, earlier, proxy, first, s3_endpoint
):
    store.guard = lambda: None

    def rule(request: Request) -> None:
        if request.kind == COPY:
            proxy.rule = lambda _: None
            with opened(first[0], s3_endpoint) as heir:
                heir.guard = lambda: None
                for name in heir.unfinished():
                    heir.remove(name, ())

    proxy.rule = rule
    with pytest.raises(StorageError, match="another run has taken the directory over"):
        save(store, earlier, 2)
    assert tries(proxy) == 1
    assert store.head("model_2.pt") is None


def test_a_save_that_is_killed_in_the_middle_of_a_copy_leaves_what_was_there_and_an_upload_to_be_ended(
    store, earlier, proxy, first
):
    may_begin, begin = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.read(may_begin, 1)
            with opened(first[0], proxy.endpoint) as own:
                save(own, earlier, 2)
        finally:
            os._exit(1)

    def rule(request: Request) -> Fault | None:
        if request.kind != COPY:
            return None
        os.kill(pid, signal.SIGKILL)
        return Fault.LOST_ANSWER

    proxy.rule = rule
    os.write(begin, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    os.close(begin)
    os.close(may_begin)
    proxy.reset()
    assert store.head("model_2.pt") is None
    assert is_right(store, 1)
    (left,) = store.orphans()
    store.remove(left, ())
    save(store, earlier, 2)
    assert is_right(store, 2)
