"""What every store does alike: one suite, run on each."""

from __future__ import annotations

import errno

import pytest

from marlin_ckpt import CheckpointNotFoundError, StorageError
from marlin_ckpt.storage.local.store import open_store
from marlin_ckpt.storage.s3.store import S3Store
from marlin_ckpt.storage.s3.store import open_store as open_prefix
from tests.support.memory_store import MemoryStore


@pytest.fixture(params=["local", "memory", "s3"])
def store(request, tmp_path):
    """An empty store."""
    if request.param == "s3":
        with open_prefix(request.getfixturevalue("s3")) as remote:
            yield remote
        return
    if request.param == "memory":
        yield MemoryStore()
        return
    with open_store(tmp_path) as local:
        yield local


def write(store, name: str, data: bytes = b"data", replaces=None):
    return store.publish(name, len(data), lambda target: target.put(data), replaces=replaces)


def read(store, name: str) -> bytes:
    with store.open(name) as source:
        return source.read(0, source.size_bytes)


def names(store, folder: str = "") -> tuple[list[str], list[str]]:
    listing = store.list(folder)
    # SeaweedFS removes folders that nothing is in any more a little later; S3 never has any.
    folders = (
        [one for one in listing.folders if store.head(one)] if isinstance(store, S3Store) else listing.folders
    )
    return sorted(listing.objects), sorted(folders)


def test_an_empty_store_has_nothing_in_it(store):
    assert names(store) == ([], [])
    assert store.unfinished() == ()
    assert store.head("model_1.pt") is None


def test_what_was_published_is_listed_with_its_size_and_read_at_any_offset(store):
    item = write(store, "model_1.pt", b"0123456789")
    assert names(store) == (["model_1.pt"], [])
    found = store.head("model_1.pt")
    assert found._replace(modified_ns=0) == item._replace(modified_ns=0)
    assert abs(found.modified_ns - item.modified_ns) < 10 * 10**9  # of which a store tells seconds
    assert (item.name, item.size_bytes, item.is_folder, item.is_link) == ("model_1.pt", 10, False, False)
    with store.open("model_1.pt") as source:
        assert source.size_bytes == 10
        assert source.path == f"{store.place}/model_1.pt"
        assert source.read(3, 4) == b"3456"
        assert source.read(8, 100) == b"89"
        buffer = bytearray(4)
        assert source.read_into(2, memoryview(buffer)) == 4
        assert bytes(buffer) == b"2345"


def test_content_that_is_put_in_pieces_is_stored_as_one(store):
    pieces = [b"a" * 100, b"", memoryview(b"bc"), b"d" * 3_000_000]

    def fill(target):
        for piece in pieces:
            target.put(piece)

    store.publish("model_1.pt", 3_000_102, fill)
    assert read(store, "model_1.pt") == b"".join(pieces)


def test_folders_are_made_for_what_is_in_them_and_listed_one_at_a_time(store):
    for name in ("a/b/model_1.pt", "a/model_2.pt", "model_3.pt", "ab/model_4.pt"):
        write(store, name)
    assert names(store) == (["model_3.pt"], ["a", "ab"])
    assert names(store, "a") == (["a/model_2.pt"], ["a/b"])
    assert names(store, "a/b") == (["a/b/model_1.pt"], [])
    assert store.head("a/b").is_folder
    assert read(store, "a/b/model_1.pt") == b"data"


def test_there_is_an_error_of_its_own_for_what_is_not_there(store):
    for look in (store.list, read_from(store)):
        with pytest.raises(CheckpointNotFoundError, match="no such") as caught:
            look("missing/folder")
        assert caught.value.where == f"{store.place}/missing/folder"
    assert store.head("missing/folder") is None
    item = write(store, "model_1.pt")
    store.remove("model_1.pt", item.identity)
    for change in (store.remove, lambda name, identity: store.move(name, "other.pt", identity)):
        with pytest.raises(CheckpointNotFoundError):
            change("model_1.pt", item.identity)


def read_from(store):
    return lambda name: read(store, name)


@pytest.mark.parametrize("name", ["../model_1.pt", "a/../model_1.pt", "/model_1.pt", "a//model_1.pt", "."])
def test_a_name_that_leads_elsewhere_is_refused(store, name):
    write(store, "a/model_1.pt")
    with pytest.raises(StorageError):
        write(store, name)
    with pytest.raises(StorageError):
        read(store, name)


def test_publishing_over_nothing_fails_where_something_has_the_name(store):
    write(store, "model_1.pt", b"first")
    with pytest.raises(StorageError) as caught:
        write(store, "model_1.pt", b"second")
    assert caught.value.where == f"{store.place}/model_1.pt"
    assert read(store, "model_1.pt") == b"first"


def test_publishing_replaces_what_is_unchanged_and_nothing_else(store):
    first = write(store, "model_1.pt", b"first")
    second = write(store, "model_1.pt", b"second", replaces=first.identity)
    assert second.identity != first.identity
    with pytest.raises(StorageError):
        write(store, "model_1.pt", b"third", replaces=first.identity)
    with pytest.raises(StorageError):
        write(store, "model_2.pt", b"third", replaces=first.identity)
    assert read(store, "model_1.pt") == b"second"
    assert names(store) == (["model_1.pt"], [])


@pytest.mark.parametrize("replaces", [False, True], ids=["over nothing", "over an older one"])
def test_publishing_that_fails_midway_leaves_what_was_there_and_no_litter(store, replaces):
    older = write(store, "model_1.pt", b"older").identity if replaces else None

    def fill(target):
        target.put(b"half")
        raise ValueError("cannot be pickled")

    with pytest.raises(ValueError, match="cannot be pickled"):
        store.publish("model_1.pt", 100, fill, replaces=older)
    assert names(store) == (["model_1.pt"] if replaces else [], [])
    assert store.unfinished() == ()
    if replaces:
        assert read(store, "model_1.pt") == b"older"


def test_what_is_being_written_is_not_listed(store):
    def fill(target):
        target.put(b"half")
        assert names(store) == ([], [])
        assert store.head("model_1.pt") is None

    store.publish("model_1.pt", 4, fill)
    assert names(store) == (["model_1.pt"], [])


def test_an_object_is_removed_only_while_it_is_what_was_seen(store):
    first = write(store, "a/model_1.pt", b"first")
    second = write(store, "a/model_1.pt", b"second", replaces=first.identity)
    with pytest.raises(StorageError) as caught:
        store.remove("a/model_1.pt", first.identity)
    assert caught.value.errno == errno.ESTALE
    assert read(store, "a/model_1.pt") == b"second"
    store.remove("a/model_1.pt", second.identity)
    assert store.head("a/model_1.pt") is None


def test_a_folder_is_removed_with_all_in_it(store):
    for name in ("whole/manifest.json", "whole/deeper/weights.bin", "model_1.pt"):
        write(store, name)
    store.remove("whole", store.head("whole").identity)
    assert names(store) == (["model_1.pt"], [])
    assert store.unfinished() == ()


def test_a_folder_to_which_something_was_added_is_another_one(store):
    write(store, "whole/manifest.json")
    seen = store.head("whole")
    write(store, "whole/weights.bin")
    with pytest.raises(StorageError) as caught:
        store.remove("whole", seen.identity)
    assert caught.value.errno == errno.ESTALE
    assert names(store, "whole") == (["whole/manifest.json", "whole/weights.bin"], [])


def test_an_object_moves_into_a_folder_that_is_made_and_back(store):
    item = write(store, "model_1.pt")
    store.move("model_1.pt", ".trash/000001/model_1.pt", item.identity)
    assert store.head("model_1.pt") is None
    moved = store.head(".trash/000001/model_1.pt")
    assert read(store, moved.name) == b"data"
    store.move(moved.name, "model_1.pt", moved.identity)
    assert read(store, "model_1.pt") == b"data"
    store.remove_empty(".trash")
    assert names(store) == (["model_1.pt"], [])


def test_a_folder_moves_with_all_in_it(store):
    write(store, "whole/manifest.json", b"{}")
    write(store, "whole/weights.bin", b"data")
    store.move("whole", "trash/1/whole", store.head("whole").identity)
    assert store.head("whole") is None
    assert read(store, "trash/1/whole/manifest.json") == b"{}"
    assert read(store, "trash/1/whole/weights.bin") == b"data"


@pytest.mark.parametrize("name", ["model_1.pt", "whole"])
def test_nothing_moves_over_what_has_the_name_or_after_it_has_changed(store, name):
    before = write(store, "model_1.pt", b"first")
    write(store, "whole/weights.bin")
    write(store, "taken")
    write(store, "full/weights.bin")
    for taken in ("taken", "full"):
        with pytest.raises(StorageError) as caught:
            store.move(name, taken, store.head(name).identity)
        assert caught.value.errno == errno.EEXIST
    write(store, "model_1.pt", b"second", replaces=before.identity)
    with pytest.raises(StorageError):
        store.move("model_1.pt", "elsewhere.pt", before.identity)
    assert names(store) == (["model_1.pt", "taken"], ["full", "whole"])


def test_folders_with_something_in_them_are_not_removed_as_empty(store):
    write(store, "a/b/model_1.pt")
    store.remove_empty("a")
    assert read(store, "a/b/model_1.pt") == b"data"


def test_an_append_adds_to_the_end_and_makes_what_is_missing(store):
    if not store.has_append:
        pytest.skip("this store has no append")
    store.append("a/events.jsonl", b"one\n")
    store.append("a/events.jsonl", b"two\n")
    assert read(store, "a/events.jsonl") == b"one\ntwo\n"


def test_free_space_is_a_number_of_bytes_or_not_told(store):
    free = store.free_space()
    assert free is None or free > 0
