"""Checkpoints that share what has not changed are the files that they would be anyway."""

from __future__ import annotations

import errno
import logging
import os
import sys

import pytest
import torch

from marlin_ckpt import (
    Checkpoint,
    CheckpointDirectory,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    RetentionArguments,
    Saver,
    Status,
    StorageError,
    load,
    read_statistics,
    verify,
)
from marlin_ckpt.formats import digests
from marlin_ckpt.formats.zip.reader import read_container
from marlin_ckpt.saving.sharing import decide
from marlin_ckpt.storage.paths import open_source
from tests.support.shared_saves import LARGE, base, in_place, origins, saves, states_of_a_run

MEBIBYTE = 1 << 20


def data_of(path) -> bytes:
    """All of a file up to what says when and by whom it was written."""
    with open_source(os.fspath(path)) as source:
        own = read_container(source).by_label[digests.NAME]
        return source.read(0, own.header_offset)


def odd_states() -> list[dict[str, torch.Tensor]]:
    whole, tied = torch.randn(2, LARGE), torch.randn(LARGE)
    first = {
        "view": whole[1], "whole": whole, "tied": tied, "again": tied, "transposed": whole.T,
        "empty": torch.empty(0), "shrinks": torch.randn(2 * LARGE), "grows": torch.randn(LARGE),
        "turns": torch.randn(2 * LARGE), "blocks": torch.zeros(MEBIBYTE, dtype=torch.uint8),
    }  # fmt: skip
    then = {
        **first, "shrinks": first["shrinks"][:LARGE].clone(), "turns": first["turns"].double(),
        "grows": torch.cat([first["grows"], first["grows"]]),
    }  # fmt: skip
    return [first, first, first, then, then, then, first]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("states", [states_of_a_run(4), odd_states()], ids=["a run", "odd states"])
def test_a_file_is_to_the_byte_what_it_would_be_if_it_shared_nothing(
    tmp_path, clones, monkeypatch, states, asynchronous
):
    sharing = saves(tmp_path / "sharing", states, asynchronous=asynchronous)
    assert clones.shared[1:]  # the first is the trial
    clones.shared.clear()
    monkeypatch.setattr(decide, "is_full", lambda _: True)
    writing = saves(tmp_path / "writing", states, asynchronous=asynchronous)
    assert not clones.shared
    for path, other, state in zip(sharing, writing, states, strict=True):
        assert data_of(path) == data_of(other)
        assert in_place(path) == {*origins(path)} != set()
        assert verify(path).status is Status.INTACT
        for loaded in (torch.load(path), torch.load(path, mmap=True), load(path)):
            assert loaded.keys() == state.keys()
            assert all(torch.equal(one, state[name]) for name, one in loaded.items())


def test_max_total_counts_what_is_shared_once(tmp_path, clones):
    size = 4 * LARGE
    rules = RetentionArguments(max_total=6 * size + 250_000)  # two copies of what is frozen, four of the rest
    left = [os.path.exists(path) for path in saves(tmp_path, states_of_a_run(7), keep=rules)]
    assert left == [False] * 3 + [True] * 4


def test_what_is_kept_has_two_copies_of_what_never_changes_and_what_changes_is_written(tmp_path, clones):
    for last in (2, 3):
        paths = saves(tmp_path / str(last), states_of_a_run(9), keep=last)
        kept = [origins(path) for path in paths if os.path.exists(path)]
        assert len(kept) == last
        assert {one["data/0"] for one in kept} == {1, 2}
        assert [one["data/1"] for one in kept] == [*range(10 - last, 10)]


def test_each_tenth_save_writes_all_and_no_copy_is_shared_for_longer_than_twenty_saves(tmp_path, clones):
    with CheckpointDirectory(tmp_path, keep=2, share_unchanged=True) as there:
        found = []
        for index, state in enumerate(states_of_a_run(23)):
            there.save(state, index)
            found.append(origins(tmp_path / f"model_{index}.pt")["data/0"])
    assert found == [1, 2, 1, 2, 1, 2, 1, 2, 1, *[10, 1] * 5, 20, 21, 20, 21]


def test_with_one_kept_checkpoint_nothing_is_shared_since_one_bad_block_would_then_lose_it(tmp_path, clones):
    paths = saves(tmp_path, states_of_a_run(4), keep=1)
    assert origins(paths[-1]) == {"data/0": 4, "data/1": 4}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_statistics_are_of_what_is_shared_too(tmp_path, clones, asynchronous):
    paths = saves(tmp_path, [base()] * 3, asynchronous=asynchronous, statistics=True)
    assert origins(paths[2]) == {"data/0": 1, "data/1": 1}
    first, last = read_statistics(paths[0]), read_statistics(paths[2])
    assert {name: one._replace(norm=0) for name, one in first.items()} == {
        name: one._replace(norm=0) for name, one in last.items()
    }
    assert last["frozen"].norm == pytest.approx(base()["frozen"].double().norm().item())


def test_a_saver_and_a_checkpointer_share_what_has_not_changed(tmp_path, clones):
    state = base()
    with Saver(share_unchanged=True) as saver:
        for index in range(3):
            saver.save(state, tmp_path / "saver" / f"any name {index}")
    assert origins(tmp_path / "saver" / "any name 2") == {"data/0": 1, "data/1": 1}
    args = DefaultCheckpointerArguments(
        save_dir=tmp_path, model_state_save_dir=None, share_unchanged=True, keep=RetentionArguments(last=2)
    )
    with DefaultCheckpointer(args) as checkpointer:
        for index in range(3):
            checkpointer.save(Checkpoint(state), index)
    assert origins(tmp_path / "model_2.pt") == {"data/0": 1, "data/1": 1}


def test_where_files_cannot_share_the_option_changes_no_byte_and_says_so_once(tmp_path, clones, caplog):
    clones.code = errno.EOPNOTSUPP
    with caplog.at_level(logging.INFO), CheckpointDirectory(tmp_path, share_unchanged=True) as there:
        for index in range(3):
            there.save(base(), index)
    with CheckpointDirectory(tmp_path / "without") as there:
        there.save(base(), 2)
    assert [one.message.split(" in ")[0] for one in caplog.records] == ["share_unchanged has no effect"]
    with open_source(os.fspath(tmp_path / "model_2.pt")) as source:
        shared = read_container(source)
    with open_source(os.fspath(tmp_path / "without" / "model_2.pt")) as source:
        assert read_container(source).records[:-1] == shared.records[:-1]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("spoils", [False, True])
def test_what_the_system_then_refuses_to_share_is_written(tmp_path, clones, asynchronous, spoils):
    states = states_of_a_run(4)
    with CheckpointDirectory(tmp_path, share_unchanged=True, asynchronous=asynchronous) as there:
        for index, state in enumerate(states):
            there.save(state, index)
            there.wait()
            clones.code, clones.spoils = errno.EIO, spoils
    for index, state in enumerate(states):
        assert verify(tmp_path / f"model_{index}.pt").status is Status.INTACT
        assert torch.equal(load(tmp_path / f"model_{index}.pt")["frozen"], state["frozen"])


def test_a_disk_that_is_full_fails_the_save_and_leaves_the_older_files_alone(tmp_path, clones):
    with CheckpointDirectory(tmp_path, share_unchanged=True) as there:
        there.save(base(), 0)
        there.save(base(), 1)
        before = (tmp_path / "model_1.pt").read_bytes()
        clones.code = errno.ENOSPC
        with pytest.raises(StorageError) as caught:
            there.save(base(), 2)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(one.name for one in tmp_path.glob("*.*")) == [".marlin-ckpt", "model_0.pt", "model_1.pt"]
    assert (tmp_path / "model_1.pt").read_bytes() == before


def test_without_xxhash_a_save_says_what_to_install(tmp_path, clones, monkeypatch):
    monkeypatch.setitem(sys.modules, "xxhash", None)
    with CheckpointDirectory(tmp_path, share_unchanged=True) as there, pytest.raises(StorageError) as caught:
        there.save(base(), 0)
    assert "marlin-ckpt[share]" in caught.value.hint


def test_of_tensors_in_a_shard_the_bytes_that_are_stored_are_compared_however_they_lie_in_memory(
    tmp_path, clones
):
    values = torch.arange(2.0 * LARGE)
    state = {
        "transposed": values.reshape(500, -1).T,
        "conjugate": values[:LARGE].to(torch.complex64).conj(),
        "behind": (values % 256).to(torch.bfloat16).repeat(2)[7:],
        "every other": values.repeat(2)[::2],
    }
    for asynchronous in (False, True):
        here = tmp_path / str(asynchronous)
        with Saver(share_unchanged=True, asynchronous=asynchronous) as saver:
            for index in range(3):
                saver.save(state, here / f"{index}.dcp")
                saver.wait()
        assert origins(here / "2.dcp" / "__0_0.distcp") == dict.fromkeys(state, 1)
        assert verify(here / "2.dcp").status is Status.INTACT
        loaded = load(here / "2.dcp")
        assert all(torch.equal(loaded[name], one) for name, one in state.items())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_state_of_many_small_tensors_takes_no_block_for_each_of_them(tmp_path, clones, asynchronous):
    many = {f"weight.{number}": torch.ones(8) * number for number in range(600)}  # of 4 KiB each: 2.4 MB
    saves(tmp_path / "small", [{**many, "large": torch.ones(LARGE)}] * 3, asynchronous=asynchronous)
    saves(tmp_path / "large", [{**many, "large": torch.ones(3 * LARGE)}] * 3, asynchronous=asynchronous)
    small, large = (tmp_path / name / "model_2.pt" for name in ("small", "large"))
    assert os.path.getsize(small) < 4 * LARGE + 600 * 500
    assert origins(small) == {}
    assert origins(large) == {"data/600": 1}
    assert {verify(path).status for path in (small, large)} == {Status.INTACT}
    assert torch.load(small, mmap=True)["weight.599"].tolist() == [599.0] * 8
