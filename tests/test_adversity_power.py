"""What is under a name if the power goes at any moment of a publish."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import pytest

from marlin_ckpt.storage.local import publish, write_all


class PowerLoss:
    """Says what can be under a name if the power goes after any of the calls that it saw.

    Bytes are on the disk once fsync of their file returned, before that perhaps; a rename is there once fsync
    of its directory returned, before that perhaps. With `leave_out`, one fsync is not made.
    """

    def __init__(self, leave_out: str = "") -> None:
        self.states: list[set[str]] = []
        self._leave_out = leave_out
        self._kinds: dict[int, str] = {}
        self._on_disk = {"old"}
        self._written = "torn"

    def __call__(self, name: str, real: Callable, *args, **kwargs):
        result = real(*args, **kwargs)
        if name == "open":
            self._kinds[result] = "directory" if args[1] & os.O_DIRECTORY else "file"
        elif name == "dup":
            self._kinds[result] = self._kinds[args[0]]
        elif name == "write":
            self._written = "torn"
        elif name == "fsync" and self._kinds[args[0]] != self._leave_out:
            if self._kinds[args[0]] == "file":
                self._written = "new"
            elif len(self._on_disk) > 1:  # a rename waits to reach the disk
                self._on_disk.discard("old")
        elif name == "rename":
            self._on_disk = {"old", self._written}
        self.states.append(set(self._on_disk))
        return result


def publish_until_the_power_goes(path, monkeypatch, leave_out: str = "") -> PowerLoss:
    publish(path, lambda fd: write_all(fd, b"old"))
    power = PowerLoss(leave_out)
    with monkeypatch.context() as patch:
        for name in ("open", "dup", "write", "fsync", "rename"):
            patch.setattr(os, name, functools.partial(power, name, getattr(os, name)))
        publish(path, lambda fd: [write_all(fd, b"new"), write_all(fd, b"er")])
    return power


def test_if_power_goes_during_a_publish_the_old_or_the_new_file_is_there_and_after_it_the_new(
    tmp_path, monkeypatch
):
    power = publish_until_the_power_goes(tmp_path / "model_1.pt", monkeypatch)
    assert set().union(*power.states) == {"old", "new"}
    assert power.states[-1] == {"new"}


@pytest.mark.parametrize(
    ("leave_out", "harm"), [("file", {"torn"}), ("directory", {"old", "new"})], ids=["file", "directory"]
)
def test_if_one_fsync_of_a_publish_were_left_out_a_power_loss_would_show_it(
    tmp_path, monkeypatch, leave_out, harm
):
    power = publish_until_the_power_goes(tmp_path / "model_1.pt", monkeypatch, leave_out)
    assert power.states[-1] == harm


def test_the_temporary_file_lies_in_the_directory_of_its_target(tmp_path):
    target = tmp_path / "a" / "model_1.pt"
    target.parent.mkdir()
    seen = []
    publish(target, lambda fd: seen.append(os.readlink(f"/proc/self/fd/{fd}")))
    assert os.path.dirname(seen[0]) == str(target.parent)
    assert os.listdir(target.parent) == ["model_1.pt"]
