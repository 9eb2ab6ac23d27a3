"""Trash, undo and removal of objects while requests are lost, and while others write there."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from marlin_ckpt import DirectoryInUseError, StorageError
from marlin_ckpt.directory import lease, trash
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.s3 import moving
from tests.support.faulty_proxy import Fault, always
from tests.support.s3_stores import (
    DATA,
    MIB,
    PASSING,
    opened,
    read,
    settings,
    with_each_request_failing_once,
    write,
)

pytestmark = pytest.mark.usefixtures("short_pauses")

TRASHED = ".trash/model_1.pt"
MOVING = [one for one in PASSING if one not in (Fault.CUT_UP, Fault.CUT_DOWN)]


@pytest.fixture
def other(s3, s3_endpoint):
    """The same, as another process reaches it."""
    with opened(s3, s3_endpoint) as one:
        yield one


@pytest.fixture
def _low_limit(monkeypatch):
    monkeypatch.setattr(moving, "MOST_AT_ONCE", MIB)
    monkeypatch.setattr(moving, "_RANGE_BYTES", 5 * MIB)


def about(store, name: str) -> dict:
    found = store._client.control.head_object(
        Bucket=store._bucket, Key=store._prefix + name, ChecksumMode="ENABLED"
    )
    return {key: found.get(key) for key in ("Metadata", "ContentLength", "ChecksumCRC32", "ChecksumType")}


@pytest.mark.usefixtures("_low_limit")
def test_an_object_that_is_too_large_to_copy_at_once_goes_to_the_trash_and_back_as_it_was(store, proxy):
    item = write(store, about="abc")
    before = about(store, "model_1.pt")
    store.move("model_1.pt", TRASHED, item.identity)
    assert store.head("model_1.pt") is None
    assert about(store, TRASHED) == before
    store.move(TRASHED, "model_1.pt", store.head(TRASHED).identity)
    assert read(store) == DATA
    assert about(store, "model_1.pt") == before
    assert before["ChecksumType"] == "FULL_OBJECT"
    assert store.head("model_1.pt").about == "abc"
    assert proxy.kinds().count("UploadPartCopy") == 4
    assert store.unfinished(".trash") == store.unfinished() == ()


@pytest.mark.parametrize("fault", MOVING)
@pytest.mark.parametrize("size", ["at once", "in parts"])
def test_a_move_survives_whatever_happens_to_one_of_its_requests(
    store, other, proxy, fault, size, request, cases
):
    data = b"short"
    if size == "in parts":
        if fault not in MOVING[: cases(1, len(MOVING))]:
            pytest.skip("all faults of long copies are tried in the campaign")
        data = DATA
        request.getfixturevalue("_low_limit")
    identity = write(store, data=data).identity
    names = ["model_1.pt", TRASHED]

    def move(_: int) -> None:
        nonlocal identity
        store.move(*names, identity)
        names.reverse()
        identity = other.head(names[0]).identity

    with_each_request_failing_once(proxy, fault, move)
    assert store.head(names[1]) is None
    assert read(store, names[0]) == data
    # Of an upload whose number was lost nobody knows; it is empty, and whoever takes the lease next ends it.
    assert len(store.orphans()) == (size == "in parts" and fault is Fault.LOST_ANSWER)


def test_an_object_that_is_replaced_between_the_look_and_the_removal_stays(store, other, proxy):
    item = write(store, data=b"old")

    def replace(request) -> None:
        if request.kind == "DeleteObject":
            write(other, data=b"new", replaces=item.identity)

    proxy.rule = replace
    with pytest.raises(StorageError, match="another object has taken its place") as caught:
        store.remove("model_1.pt", item.identity)
    assert caught.value.errno == errno.ESTALE
    assert read(other) == b"new"


@pytest.mark.parametrize("kind", ["CopyObject", "UploadPartCopy", "CompleteMultipartUpload", "DeleteObject"])
def test_an_object_that_is_replaced_while_it_is_moved_stays(store, other, proxy, kind, request):
    if kind in ("UploadPartCopy", "CompleteMultipartUpload"):
        request.getfixturevalue("_low_limit")
    item = write(store)
    proxy.reset()

    def replace(request) -> None:
        if request.kind == kind and not request.number:
            write(other, data=b"new", replaces=item.identity)

    proxy.rule = replace
    with pytest.raises(StorageError) as caught:
        store.move("model_1.pt", TRASHED, item.identity)
    assert caught.value.errno == errno.ESTALE
    assert read(other) == b"new"
    assert other.unfinished(".trash") == other.unfinished() == ()


@pytest.mark.usefixtures("_low_limit")
def test_a_copy_in_parts_that_has_ended_as_it_met_another_request_is_made_anew_or_given_up(
    store, other, proxy
):
    item = write(store)

    def end(request) -> Fault | None:
        if request.kind != "CompleteMultipartUpload" or request.number:
            return None
        for name in other.orphans():
            other.remove(name, ())
        return Fault.CONFLICT

    proxy.reset()
    proxy.rule = end
    store.move("model_1.pt", TRASHED, item.identity)
    assert read(other, TRASHED) == DATA
    proxy.rule = always("CompleteMultipartUpload", Fault.CONFLICT)
    with pytest.raises(StorageError, match="cannot move: other requests"):
        store.move(TRASHED, "model_1.pt", other.head(TRASHED).identity)
    assert read(other, TRASHED) == DATA
    assert other.head("model_1.pt") is None
    assert other.orphans() == ()


@pytest.mark.usefixtures("_low_limit")
def test_a_copy_whose_upload_another_run_has_ended_fails_and_says_so(store, other, proxy):
    item = write(store)

    def end(request) -> None:
        if request.kind == "CompleteMultipartUpload":
            for name in other.orphans():
                other.remove(name, ())

    proxy.reset()
    proxy.rule = end
    with pytest.raises(StorageError, match="another run has taken the directory over"):
        store.move("model_1.pt", TRASHED, item.identity)
    assert read(other) == DATA


def test_nothing_moves_over_what_is_written_there_meanwhile(store, other, proxy):
    item = write(store, data=b"mine")

    def write_there(request) -> None:
        if request.kind == "CopyObject":
            write(other, TRASHED, b"theirs")

    proxy.rule = write_there
    with pytest.raises(StorageError) as caught:
        store.move("model_1.pt", TRASHED, item.identity)
    assert caught.value.errno == errno.EEXIST
    assert (read(other), read(other, TRASHED)) == (b"mine", b"theirs")


def test_whoever_takes_the_lease_ends_what_a_killed_removal_or_undo_had_half_copied(store, s3, proxy):
    paths.use(s3, settings(proxy.endpoint))
    client = store._client.control
    for name in ("a/b_3.pt", "held/b_4.pt"):
        write(store, f".trash/000002/{name}", b"in the trash")
    ours = [".trash/000001/model_1.pt", ".trash/000002/a/b_2.pt", "a/b_3.pt"]
    others = ["a/x", "a/b_2.pt", "held/b_4.pt"]
    with lease.held(f"{s3}/held"):
        for name in (*ours, *others):
            client.create_multipart_upload(Bucket=store._bucket, Key=store._prefix + name)
        with lease.held(s3):
            pass
    assert uploads_below(store) == sorted(others)


def uploads_below(store) -> list[str]:
    """The names of all uploads to a prefix, whoever they are of."""
    found = store._client.control.list_multipart_uploads(Bucket=store._bucket, Prefix=store._prefix)
    return sorted(one["Key"].removeprefix(store._prefix) for one in found.get("Uploads", ()))


@pytest.mark.usefixtures("_low_limit")
@pytest.mark.parametrize("next_one", ["a run", "an undo"])
def test_an_undo_that_is_killed_while_it_copies_to_a_folder_leaves_nothing_behind_the_next_one(
    store, s3, proxy, next_one
):
    paths.use(s3, settings(proxy.endpoint))
    write(store, ".trash/000001/a/model_1.pt")
    with lease.held(s3):
        pass

    def undo() -> None:
        with lease.held_where_used([s3]):
            trash.bring_back(s3)

    def kill(request) -> Fault | None:
        if request.kind != "UploadPartCopy" or not request.number:
            return None
        os.kill(child, signal.SIGKILL)
        return Fault.LOST_REQUEST

    proxy.reset()
    proxy.rule = kill
    child = os.fork()
    if not child:
        try:
            undo()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    proxy.reset()
    assert uploads_below(store) == ["a/model_1.pt"]
    if next_one == "a run":
        with lease.held(s3):
            assert uploads_below(store) == []
    undo()
    assert read(store, "a/model_1.pt") == DATA
    assert uploads_below(store) == []


@pytest.mark.parametrize("names", [["model_1.pt"], ["model_1/a", "model_1/b"]], ids=["object", "folder"])
def test_what_was_copied_stays_where_the_lease_has_ended_meanwhile(store, names):
    for name in names:
        write(store, name, b"data")
    asked = []

    def guard() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise DirectoryInUseError("the lease was lost", store.place)

    moved = names[0].partition("/")[0]
    store.guard = guard
    with pytest.raises(DirectoryInUseError):
        store.move(moved, f".trash/{moved}", store.head(moved).identity)
    assert [one.name for one in store.items()] == [*(f".trash/{one}" for one in names), *names]
