"""Whatever the system answers to whichever call, a caller sees errors of ours, with path and cause."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
import torch

from marlin_ckpt import (
    Checkpoint,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    MarlinError,
    StorageError,
    get_latest_file,
)
from tests.support.refused_calls import refusals

CODES = [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOENT, errno.EROFS]


def checkpointer(directory, **options):
    arguments = {"save_dir": directory, "load_dir": directory, "log_level": "CRITICAL", **options}
    return DefaultCheckpointer(DefaultCheckpointerArguments(**arguments))


def state(value):
    return Checkpoint({"weight": torch.full((10,), value)})


def running(directory):
    own = checkpointer(directory)
    with own.running():
        own.save(state(2.0), 1)
        own.take_reports()


def behind(directory):
    own = checkpointer(directory, async_save=True)
    try:
        own.save(state(2.0), 1)
    finally:
        own.close()


WAYS = {
    "save": lambda directory: checkpointer(directory).save(state(2.0), 1),
    "save in a new directory": lambda directory: checkpointer(f"{directory}/a/b").save(state(2.0), 1),
    "save in the background": behind,
    "train": running,
    "load": lambda directory: checkpointer(directory).load(),
    "load one": lambda directory: checkpointer(directory, load_filename="model_1.pt").load(),
    "latest": lambda directory: get_latest_file(directory, "model"),
    "delete": lambda directory: checkpointer(
        directory, load_dir=None, delete_existing_checkpoints=True
    ),
}  # fmt: skip


def begin(directory):
    shutil.rmtree(directory)
    os.mkdir(directory)
    own = checkpointer(directory)
    for index in range(2):
        own.save(state(1.0), index)


@pytest.mark.parametrize("way", WAYS)
def test_each_refused_call_is_an_error_of_ours_that_names_path_and_cause(directory, way, cases):
    turn = list(WAYS).index(way) % len(CODES)  # the errors take turns with the ways
    for code in [*CODES[turn:], *CODES[:turn]][: cases(1, len(CODES))]:
        for refusal in refusals(code):
            begin(directory)
            told, error = "", None
            try:
                with pytest.MonkeyPatch.context() as patch:
                    refusal.put_in(patch)
                    WAYS[way](directory)
            except (MarlinError, OSError) as caught:
                error, told = caught, f"{refusal.refused}: {caught!r}"
            assert error is None or isinstance(error, MarlinError), told
            if isinstance(error, StorageError):
                assert error.errno == code, told
                assert error.where or "working directory" in error.what, told
                assert "in the way" not in error.what, told


@pytest.mark.parametrize("way", ["save", "save in the background"])
@pytest.mark.parametrize("code", [errno.EROFS, errno.EIO])
def test_where_everything_fails_from_some_call_on_a_whole_file_has_the_name(directory, way, code):
    found = []
    for refusal in refusals(code, lasts=True):
        begin(directory)
        try:
            with pytest.MonkeyPatch.context() as patch:
                refusal.put_in(patch)
                WAYS[way](directory)
        except StorageError:
            weight = (
                checkpointer(directory, load_filename="model_1.pt").load().module_interface_state["weight"]
            )
            assert weight.unique().numel() == 1, refusal.refused
            found.append(weight[0].item())
    assert set(found) <= {1.0, 2.0}
    assert found.count(1.0) > found.count(2.0)


def dangling_link(path):
    path.symlink_to("nowhere")


def link_in_a_circle(path):
    path.symlink_to(path.name)


def file(path):
    path.write_text("")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (dangling_link, "a symbolic link that leads nowhere has its name"),
        (link_in_a_circle, "Too many levels of symbolic links"),
        (file, "a file is in the way"),
    ],
)
def test_what_is_in_the_place_of_the_directory_is_named_as_what_it_is(tmp_path, make, told):
    make(tmp_path / "saved")
    with pytest.raises(StorageError, match=f"cannot make the directory: {told}") as caught:
        checkpointer(str(tmp_path / "saved")).save(state(1.0), 0)
    assert caught.value.where == str(tmp_path / "saved")


def test_a_relative_path_in_a_working_directory_that_is_gone_is_told_in_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    own = checkpointer("saved", load_dir="saved", model_state_save_dir="saved")
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for call in (lambda: own.save(state(1.0), 0), own.load, DefaultCheckpointerArguments):
        with pytest.raises(StorageError) as caught:
            call()
        assert str(caught.value) == "the working directory has been removed"
    absolute = checkpointer(str(tmp_path), model_state_save_dir=None)
    assert absolute.save(state(1.0), 0) == str(tmp_path / "model_0.pt")
