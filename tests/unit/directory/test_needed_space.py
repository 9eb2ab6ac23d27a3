"""Whether there is room for a run: what its rules keep, and what it has there as far as they replace it."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from marlin_ckpt import (
    BestArguments,
    Checkpoint,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    RetentionArguments,
    StorageError,
)
from marlin_ckpt.directory import needed_space
from marlin_ckpt.directory.needed_space import Size
from marlin_ckpt.saving import predicted_size
from marlin_ckpt.saving.sharing import decide
from tests.support.clones import shared_blocks


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
    assert needed_space.needed_bytes(Size(10), None, 1) == 10
    assert needed_space.needed_bytes(Size(10), RetentionArguments(last=3), 3) == 40
    assert needed_space.needed_bytes(Size(10), RetentionArguments(last=9, max_total=50), 9) == 60
    assert needed_space.needed_bytes(Size(10), RetentionArguments(max_total=5), 9) == 20


def test_of_what_checkpoints_share_as_many_copies_are_needed_as_there_are_at_most():
    size = Size(100, 90, decide.most_copies)
    assert [size.of(kept) for kept in (1, 2, 3, 5, 10, 11, 25)] == [100, 200, 300, 320, 370, 470, 700]
    assert needed_space.needed_bytes(size, None, 1) == 100
    assert needed_space.needed_bytes(size, RetentionArguments(last=5), 5) == 100 + 320
    assert needed_space.needed_bytes(size, RetentionArguments(last=5, max_total=250), 5) == 100 + 250


def test_a_run_that_shares_what_is_frozen_needs_room_for_what_is_trained(tmp_path, monkeypatch):
    module = torch.nn.Sequential(torch.nn.Linear(100, 100, bias=False), torch.nn.Linear(10, 10, bias=False))
    module[0].requires_grad_(requires_grad=False)
    optimizer = torch.optim.AdamW(module.parameters())
    state = Checkpoint(module.state_dict(), {"optimizer": optimizer.state_dict()})
    whole, frozen = 40_000 + 1200, 40_000
    arguments = {"save_dir": str(tmp_path / "d"), "keep": RetentionArguments(last=9)}
    needed = 10 * whole - 6 * frozen
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=needed - 1, f_frsize=1))

    def message(**how) -> str:
        with pytest.raises(StorageError) as caught:
            DefaultCheckpointer(DefaultCheckpointerArguments(**arguments, **how)).check_space(
                state, [optimizer], 99
            )
        return str(caught.value)

    with shared_blocks():
        told = message(share_unchanged=True)
        assert f"9 checkpoints of {whole:,} bytes and one more, which share {frozen:,} bytes of each" in told
        assert f"{needed:,} bytes are needed, {needed - 1:,} are free" in told
        assert f"{10 * whole:,} bytes are needed" in message()
    assert not os.listdir(tmp_path)
