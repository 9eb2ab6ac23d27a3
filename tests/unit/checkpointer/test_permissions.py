"""The permissions of the files that are saved."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o400])
@pytest.mark.parametrize("is_behind", [False, True])
def test_a_file_that_is_saved_over_keeps_its_permissions_from_the_first_byte_on(
    make_checkpointer, make_checkpoint, monkeypatch, mode: int, is_behind: bool
):
    checkpointer = make_checkpointer(async_save=is_behind)
    path = Path(checkpointer.save(make_checkpoint(), 1))
    checkpointer.wait()
    path.chmod(mode)
    seen, fsync = [], os.fsync

    def look(descriptor: int) -> None:
        seen.extend(stat.S_IMODE(one.stat().st_mode) for one in path.parent.glob(".model_*"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    checkpointer.save(make_checkpoint(), 1)
    checkpointer.wait()
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert set(seen) == {mode}
    checkpointer.save(make_checkpoint(), 2)
    checkpointer.wait()
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.with_name("model_2.pt").stat().st_mode) == 0o666 & ~mask
