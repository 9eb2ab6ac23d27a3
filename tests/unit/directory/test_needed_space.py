"""Whether there is room for a run: what its rules keep, and what it has there as far as they replace it."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from marlin_ckpt import BestArguments, RetentionArguments, StorageError
from marlin_ckpt.directory import needed_space
from marlin_ckpt.saving import predicted_size


@pytest.fixture
def check(make_checkpointer, make_checkpoint, monkeypatch):
    """Checks, for a run that has saved some indices, whether there is room, in checkpoints, for more."""

    def run(keep, saved, left: int, free: float) -> None:
        checkpointer = make_checkpointer(keep=keep, load_dir=None)
        for index in saved:
            checkpointer.save(make_checkpoint(), index)
        folder = checkpointer.args.save_dir
        sizes = [os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)]
        state = make_checkpoint()
        monkeypatch.setattr(predicted_size, "predicted_bytes", lambda *_: max(sizes))
        bytes_free = int(free * max(sizes))
        monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=bytes_free, f_frsize=1))
        checkpointer.check_space(state, [], left)

    return run


def test_without_rules_what_is_there_makes_no_room(check):
    with pytest.raises(StorageError, match="too little room for a checkpoint"):
        check(None, range(3), 10, 0.9)
    check(None, range(3), 10, 1.0)


def test_what_a_rule_keeps_for_good_makes_no_room(check):
    with pytest.raises(StorageError, match="too little room"):
        check(RetentionArguments(every=10), range(0, 90, 10), 10, 0.9)
    check(RetentionArguments(every=10), range(0, 90, 10), 10, 2.0)


def test_what_will_be_replaced_makes_room(check):
    check(RetentionArguments(last=3, every=10), [0, 10, 20, 27, 28, 29], 9, 2.1)
    with pytest.raises(StorageError, match="too little room"):
        check(RetentionArguments(last=3, every=10), [0, 10, 20, 27, 28, 29], 9, 1.9)


@pytest.mark.parametrize(
    ("rules", "saves", "indices", "expected"),
    [
        (None, 9, 9, 1),
        ({"last": 3}, 100, 100, 3),
        ({"last": 3}, 2, 2, 2),
        ({"last": 3, "every": 10, "best": BestArguments("loss", "min", 2)}, 100, 95, 15),
        ({"within": "7d"}, 40, 40, 40),
        ({"max_total": "1GB"}, 40, 40, 40),
        ({"hourly": 1, "daily": 2, "weekly": 3}, 40, 40, 6),
    ],
)
def test_what_the_rules_keep_at_most_is_foretold(rules, saves, indices, expected):
    arguments = None if rules is None else RetentionArguments(**rules)
    assert needed_space.most_kept(arguments, saves, indices) == expected


def test_what_is_needed_is_what_is_kept_and_one_more_or_what_max_total_allows():
    assert needed_space.needed_bytes(10, None, 1) == 10
    assert needed_space.needed_bytes(10, RetentionArguments(last=3), 3) == 40
    assert needed_space.needed_bytes(10, RetentionArguments(last=9, max_total=50), 9) == 60
    assert needed_space.needed_bytes(10, RetentionArguments(max_total=5), 9) == 20
