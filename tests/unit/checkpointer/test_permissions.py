"""The permissions of the files that are saved."""

from __future__ import annotations

import errno
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


@pytest.fixture
def given_away(make_checkpointer, make_checkpoint):
    """A saved file that belongs to another user and group."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    path = Path(make_checkpointer().save(make_checkpoint(), 1))
    os.chown(path, 12345, 12346)
    return path


def test_a_file_that_is_saved_over_keeps_its_owner_and_group_where_it_may(
    given_away, make_checkpointer, make_checkpoint
):
    given_away.chmod(0o4640)
    make_checkpointer().save(make_checkpoint(), 1)
    status = given_away.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 12346, 0o640)


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o660, 0o600), (0o664, 0o644), (0o644, 0o644), (0o640, 0o600), (0o604, 0o600)]
)
def test_where_the_group_cannot_be_kept_nobody_may_do_more_than_before(
    given_away, make_checkpointer, make_checkpoint, monkeypatch, mode, expected
):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    given_away.chmod(mode)
    monkeypatch.setattr(os, "fchown", refuse)
    make_checkpointer().save(make_checkpoint(), 1)
    assert stat.S_IMODE(given_away.stat().st_mode) == expected


def test_what_replaces_a_private_file_is_open_to_nobody_else_from_its_first_instant_on(
    make_checkpointer, make_checkpoint, monkeypatch
):
    path, made, fchmod = Path(make_checkpointer().save(make_checkpoint(), 1)), [], os.fchmod

    def look_first(descriptor: int, mode: int) -> None:
        made.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fchmod(descriptor, mode)

    path.chmod(0o400)
    monkeypatch.setattr(os, "fchmod", look_first)
    make_checkpointer().save(make_checkpoint(), 1)
    assert made == [0o600]


def test_a_file_system_without_modes_refuses_no_save(make_checkpointer, make_checkpoint, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    Path(make_checkpointer().save(make_checkpoint(), 1)).chmod(0o640)
    monkeypatch.setattr(os, "fchmod", refuse)
    assert make_checkpointer().save(make_checkpoint(), 1)
