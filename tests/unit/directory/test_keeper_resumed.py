"""Retention in a run that goes on from an earlier file."""

from __future__ import annotations

import errno
import os

import pytest

from marlin_ckpt import RetentionArguments
from marlin_ckpt.formats import verification
from marlin_ckpt.storage.local import publishing
from tests.support.folders import visible


@pytest.mark.parametrize("async_save", [False, True])
def test_on_a_full_disk_the_file_that_the_run_goes_on_from_stays_until_a_newer_one_is_durable(
    make_checkpointer, make_checkpoint, tmp_path, monkeypatch, async_save
):
    folder = tmp_path / "checkpoints"
    first = make_checkpointer()
    for index in range(5):
        first.save(make_checkpoint(), index)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with make_checkpointer(
        async_save=async_save,
        keep=RetentionArguments(last=1),
        on_save_error="warn",
        load_dir=None,
        resume_from=os.fspath(folder / "model_3.pt"),  # since model_4.pt has brought runs to a bad end
    ) as second:
        second.load()
        with monkeypatch.context() as patch:
            patch.setattr(publishing, "_fill", fail)
            second.save(make_checkpoint(), 4)
            second.wait()
        assert visible(folder) == ["model_3.pt", "model_4.pt"]
        second.save(make_checkpoint(), 5)
        second.wait()
        assert visible(folder) == ["model_5.pt"]


def test_a_save_dir_that_is_a_link_to_a_directory_is_kept_to_the_rules_too(
    make_checkpointer, make_checkpoint, tmp_path, monkeypatch
):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "linked").symlink_to("scratch")
    monkeypatch.setattr(verification, "verify", pytest.fail)
    checkpointer = make_checkpointer(
        save_dir=f"{tmp_path}/linked/", load_dir=None, keep=RetentionArguments(last=1)
    )
    for index in range(3):
        checkpointer.save(make_checkpoint(), index)
    assert visible(tmp_path / "scratch") == ["model_2.pt"]
