"""What a file system says of blocks that files share: whether it can."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from marlin_ckpt.storage.local import cloning
from tests.support.clones import BLOCK, FULL, REFUSALS, Clones


@pytest.mark.parametrize("block", [BLOCK << doublings for doublings in range(5)])
def test_the_block_of_a_file_system_is_found_out_once_and_no_file_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    clones = Clones(block).put_in(monkeypatch)
    assert [cloning.block_bytes(str(tmp_path)) for _ in range(3)] == [block] * 3
    assert len(clones.shared) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", REFUSALS + FULL, ids=errno.errorcode.get)
def test_a_file_system_that_shares_nothing_is_no_error(tmp_path: Path, clones: Clones, code: int) -> None:
    clones.code = code
    assert cloning.block_bytes(str(tmp_path)) is None
    assert os.listdir(tmp_path) == []


def test_a_disk_that_was_full_is_tried_again(tmp_path: Path, clones: Clones) -> None:
    clones.code = errno.ENOSPC
    assert cloning.block_bytes(str(tmp_path)) is None
    clones.code = 0
    assert cloning.block_bytes(str(tmp_path)) == BLOCK


def test_a_file_system_that_says_it_shares_and_does_not_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clones = Clones().put_in(monkeypatch)
    monkeypatch.setattr(clones, "ioctl", lambda *_: b"")
    assert cloning.block_bytes(str(tmp_path)) is None


def test_where_there_is_no_directory_or_no_file_can_be_made_nothing_is_shared(
    tmp_path: Path, clones: Clones, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cloning.block_bytes(str(tmp_path / "missing")) is None

    def refusing(*_: object, **__: object) -> tuple[int, str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(cloning.temporary, "create", refusing)
    assert cloning.block_bytes(str(tmp_path)) is None
    assert clones.shared == []
