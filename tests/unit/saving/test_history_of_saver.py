"""The history that `save` and `Saver` write where one is asked for."""

from __future__ import annotations

import os

import pytest

from marlin_ckpt import Saver, StorageError, save
from marlin_ckpt.directory.history import reading
from marlin_ckpt.saving import about


def kinds(directory) -> list[str]:
    return [one.kind for one in reading.read(str(directory)).events]


def test_none_is_written_unless_it_is_asked_for(tmp_path):
    save({"a": 1}, tmp_path / "model_1.pt")
    with Saver() as saver:
        saver.save({"a": 1}, tmp_path / "model_2.pt")
    assert sorted(os.listdir(tmp_path)) == ["model_1.pt", "model_2.pt"]


def test_save_has_one_start_for_all_saves_of_the_process_and_the_failed_ones(tmp_path):
    for index in (1, 2):
        save({"a": 1}, tmp_path / f"model_{index}.pt", metrics={"loss": 0.5}, history=tmp_path)
    with pytest.raises(StorageError):
        save({"a": 1}, tmp_path / "model_2.pt", overwrite=False, history=tmp_path)
    assert kinds(tmp_path) == ["started", "saved", "saved"]  # refused before it began
    started, one, other = reading.read(str(tmp_path)).events
    assert started.by == "save"
    assert (one.name, one.metrics, other.name) == ("model_1.pt", {"loss": 0.5}, "model_2.pt")
    assert started.run_id == one.run_id == other.run_id


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_saver_says_what_it_continues_and_where_files_outside_the_directory_are(tmp_path, asynchronous):
    here = tmp_path / "runs"
    with Saver(asynchronous=asynchronous, history=here) as saver:
        saver.save({"a": 1}, here / "model_1.pt")
    with Saver(asynchronous=asynchronous, history=here) as again:
        again.continue_run(here / "model_1.pt")
        again.save({"a": 1}, tmp_path / "elsewhere" / "best.pt")
    assert kinds(here) == ["started", "saved", "started", "resumed", "saved"]
    *_, resumed, saved = reading.read(str(here)).events
    assert (resumed.name, saved.name) == ("model_1.pt", str(tmp_path / "elsewhere" / "best.pt"))
    assert not (tmp_path / "elsewhere" / ".marlin-ckpt").exists()


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_state_that_cannot_be_written_is_a_failed_save_and_the_error_is_raised_as_ever(
    tmp_path, monkeypatch, asynchronous
):
    from marlin_ckpt.formats.torch import writer

    def full(*_, **__) -> None:
        raise StorageError("cannot write: no space left")

    monkeypatch.setattr(writer, "write_image" if asynchronous else "write_encoded", full)
    saver = Saver(asynchronous=asynchronous, history=tmp_path)
    with pytest.raises(StorageError, match="no space"):
        saver.save({"a": 1}, tmp_path / "model_1.pt")
        saver.wait()
    assert kinds(tmp_path) == ["started", "save failed"]
    saver.close()


def test_a_configuration_in_which_keys_have_no_order_or_that_holds_itself_stops_no_run():
    mixed = {"module": {"args": {"layers": {1: "a", "last": "b"}}}}
    assert about.digest(mixed) == about.digest({**mixed}) != about.digest({"module": {}})
    mixed["module"]["args"]["again"] = mixed
    assert about.digest(mixed) == ""
