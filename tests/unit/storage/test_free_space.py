"""What is free on a disk, which all who ask have from one place."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from marlin_ckpt.storage.local import abilities
from marlin_ckpt.storage.local.mounts import free_bytes
from marlin_ckpt.storage.local.store import open_store
from tests.support.folders import REPOSITORY


def test_what_is_set_aside_for_root_is_not_free_to_any_who_asks(tmp_path, monkeypatch):
    found = SimpleNamespace(
        f_bavail=3, f_bfree=5, f_frsize=4096, f_bsize=1 << 20, f_blocks=9, f_favail=1, f_files=2
    )
    monkeypatch.setattr(os, "statvfs", lambda where: found)
    with open_store(tmp_path) as store:
        asked = free_bytes(tmp_path), store.free_space(), abilities.look_at(tmp_path).free_bytes
    assert asked == (3 * 4096,) * 3


@pytest.mark.parametrize("call", ["statvfs(", "f_bavail"])
def test_one_module_alone_asks_the_system_how_much_is_free(call):
    users = {file.name for file in (REPOSITORY / "marlin_ckpt").rglob("*.py") if call in file.read_text()}
    assert users - {"abilities.py"} == {"mounts.py"}
