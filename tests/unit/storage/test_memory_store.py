"""The store in memory fails where it is told to, so that tests of what uses a store can rely on it."""

from __future__ import annotations

import errno

import pytest

from marlin_ckpt import StorageError
from tests.support.memory_store import MemoryStore


class Killed(BaseException):
    """Ends a process in the middle of what it does."""


def test_the_call_of_a_number_fails_and_changes_nothing():
    store = MemoryStore()
    item = store.publish("model_1.pt", 4, lambda target: target.put(b"data"))
    store.fail(1, errno.EIO)
    store.head("model_1.pt")
    with pytest.raises(StorageError) as caught:
        store.remove("model_1.pt", item.identity)
    assert caught.value.errno == errno.EIO
    assert store.head("model_1.pt") == item
    store.remove("model_1.pt", item.identity)
    assert store.head("model_1.pt") is None


def test_a_process_that_ends_while_it_publishes_leaves_something_unfinished_that_can_be_removed():
    store = MemoryStore()

    def fill(target):
        target.put(b"half")
        raise Killed

    with pytest.raises(Killed):
        store.publish("a/model_1.pt", 8, fill)
    assert store.list().objects == ()
    (left,) = store.unfinished("a")
    assert store.is_abandoned(left)
    item = store.head(left)
    assert item.size_bytes == 4
    store.remove(left, item.identity)
    assert store.unfinished("a") == ()
