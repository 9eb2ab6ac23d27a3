"""Files that somebody changes, or that rot, while a checkpoint shares their bytes or before."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from marlin_ckpt import CheckpointDirectory, CorruptCheckpointError, Status, load, verify
from tests.support.clones import BLOCK, Clones
from tests.support.shared_saves import base, origins, saves, states_of_a_run

MEBIBYTE = 1 << 20


class Meddling(Clones):
    """Does something to the file that is shared with, right before its first bytes are shared."""

    def __init__(self, meddle) -> None:
        super().__init__()
        self._meddle = meddle
        self.is_on = False

    def ioctl(self, fd, request, argument):
        if self.is_on:
            self.is_on = False
            self._meddle()
        return super().ioctl(fd, request, argument)


def truncated(path):
    os.truncate(path, 5 * BLOCK)


def removed(path):
    path.unlink()


def replaced(path):
    other = path.with_suffix(".other")
    other.write_bytes(bytes(path.stat().st_size))
    other.rename(path)


def overwritten(path):
    """All zeros, in place."""
    path.write_bytes(bytes(path.stat().st_size))


def flipped(path):
    """The bits of every byte."""
    path.write_bytes(path.read_bytes().translate(bytes(range(255, -1, -1))))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("meddle", [truncated, removed, replaced, overwritten, flipped])
def test_a_file_that_somebody_changes_while_its_bytes_are_shared_spoils_no_new_one(
    tmp_path, monkeypatch, meddle, asynchronous
):
    clones = Meddling(lambda: meddle(tmp_path / "model_0.pt")).put_in(monkeypatch)
    states = states_of_a_run(3)
    with CheckpointDirectory(tmp_path, share_unchanged=True, asynchronous=asynchronous) as there:
        for index, state in enumerate(states):
            there.wait()
            clones.is_on = index == 2
            there.save(state, index)
    assert not clones.is_on
    assert verify(tmp_path / "model_2.pt").status is Status.INTACT
    assert torch.equal(load(tmp_path / "model_2.pt")["frozen"], states[2]["frozen"])


def test_a_tensor_that_another_thread_changes_meanwhile_gives_no_file_whose_sums_do_not_hold(
    tmp_path, monkeypatch
):
    state = base()
    clones = Meddling(lambda: [one.add_(1) for one in state.values()]).put_in(monkeypatch)
    with CheckpointDirectory(tmp_path, share_unchanged=True) as there:
        for index in range(3):
            clones.is_on = index == 2
            there.save(state, index)
    assert not clones.is_on
    assert verify(tmp_path / "model_2.pt").status is Status.INTACT


@pytest.mark.parametrize("meddle", [truncated, removed, replaced, overwritten, flipped])
def test_a_file_that_is_not_what_was_written_is_not_shared_with(tmp_path, clones, meddle):
    states = states_of_a_run(4)
    with CheckpointDirectory(tmp_path, share_unchanged=True) as there:
        there.save(states[0], 0)
        there.save(states[1], 1)
        meddle(tmp_path / "model_0.pt")
        there.save(states[2], 2)
    assert origins(tmp_path / "model_2.pt")["data/0"] == 3
    assert verify(tmp_path / "model_2.pt").status is Status.INTACT


def test_bytes_that_rot_on_the_disk_unseen_are_found_by_who_reads_the_new_file(tmp_path, clones):
    with CheckpointDirectory(tmp_path, share_unchanged=True) as there:
        there.save(base(), 0)
        there.save(base(), 1)
        path, before = tmp_path / "model_0.pt", os.stat(tmp_path / "model_0.pt")
        with open(path, "r+b") as file:
            file.seek(MEBIBYTE)
            file.write(b"rotten")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        there.save(base(), 2)
    assert origins(tmp_path / "model_2.pt")["data/0"] == 1
    with pytest.raises(CorruptCheckpointError):
        load(tmp_path / "model_2.pt")
    assert verify(tmp_path / "model_1.pt").status is Status.INTACT


def test_a_checkpoint_that_another_run_put_in_its_place_is_not_shared_with(tmp_path, clones):
    saves(tmp_path / "other", [base()])
    with CheckpointDirectory(tmp_path, share_unchanged=True) as there:
        there.save(base(), 0)
        there.save(base(), 1)
        shutil.copy2(tmp_path / "other" / "model_0.pt", tmp_path / "model_0.pt")
        there.save(base(), 2)
    assert origins(tmp_path / "model_2.pt")["data/0"] == 3
