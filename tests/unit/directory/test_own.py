"""Our own bookkeeping in a directory that others may write to: nothing planted is followed or waited for."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest

from marlin_ckpt.directory import lease, notes, own
from marlin_ckpt.naming import OWN_DIRECTORY
from marlin_ckpt.storage.local import system_calls

OURS = ["notes.json", "notes.json.new", "lease.json", "lease.json.new", "lease.lock"]


@pytest.fixture
def victim(tmp_path) -> Path:
    """A file of the user's that is none of ours."""
    path = tmp_path / "victim.json"
    path.write_text('{"save_seconds": 7, "run_id": "planted"}')
    return path


@pytest.fixture
def directory(tmp_path) -> Path:
    (tmp_path / "run" / OWN_DIRECTORY).mkdir(parents=True)
    (tmp_path / "run" / "model_1.pt").write_bytes(b"data")
    return tmp_path / "run"


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def link_to_nothing(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("made"))


def fifo(path: Path, _: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, _: Path) -> None:
    path.mkdir()


def file(path: Path, _: Path) -> None:
    path.write_text("{}")


def everything(directory: str) -> None:
    """All that a run does with its bookkeeping."""
    with lease.held(directory, "abc"):
        notes.note_save(directory, 1.5)
        notes.save_seconds(directory)
        notes.failed_starts(directory)
        with notes.counted_start(os.path.join(directory, "model_1.pt")):
            pass


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("plant", [link, link_to_nothing, fifo, folder])
def test_what_is_planted_in_the_place_of_a_file_of_ours_is_neither_followed_nor_waited_for(
    directory, victim, plant, name
):
    plant(directory / OWN_DIRECTORY / name, victim)
    before = victim.read_bytes()
    everything(str(directory))
    assert victim.read_bytes() == before
    assert not victim.with_name("made").exists()


@pytest.mark.parametrize("plant", [link, link_to_nothing, fifo, file])
def test_what_is_planted_in_the_place_of_our_folder_is_left_and_the_run_goes_on_without(
    directory, tmp_path, plant, caplog
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (directory / OWN_DIRECTORY).rmdir()
    plant(directory / OWN_DIRECTORY, elsewhere)
    everything(str(directory))
    assert list(elsewhere.iterdir()) == []
    assert not (tmp_path / "made").exists()
    assert "nothing keeps two runs from it" in caplog.text


@pytest.mark.parametrize("plant", [link, fifo, folder])
def test_planted_notes_are_not_read_and_the_log_says_so_once(directory, victim, plant, caplog):
    plant(directory / OWN_DIRECTORY / "notes.json", victim)
    for _ in range(3):
        assert notes.save_seconds(str(directory)) is None
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"Passed over {directory / OWN_DIRECTORY / 'notes.json'}: ")


def test_a_link_planted_as_notes_is_replaced_by_notes(directory, victim):
    path = directory / OWN_DIRECTORY / "notes.json"
    path.symlink_to(victim)
    notes.note_save(str(directory), 1.5)
    assert not path.is_symlink()
    assert json.loads(path.read_text()) == {"save_seconds": 1.5}


@pytest.mark.parametrize(
    "value",
    ["1" + "0" * 400, "1" * 5000, "-1", "1e400", "NaN", '"5"', "[5]", "null"],
    ids=["no float", "no integer", "negative", "infinite", "NaN", "text", "list", "nothing"],
)
def test_a_number_that_cannot_have_been_noted_counts_as_none(directory, value):
    text = f'{{"save_seconds": {value}, "starts": {{"4/1/model_1.pt": {value}}}}}'
    (directory / OWN_DIRECTORY / "notes.json").write_text(text)
    assert notes.save_seconds(str(directory)) is None
    assert notes.failed_starts(str(directory)) == {}
    everything(str(directory))
    assert notes.save_seconds(str(directory)) == 1.5


@pytest.mark.parametrize("name", ["\\u0000", "..", "", "\\ud800", "a" * 300])
def test_a_start_from_a_name_that_no_checkpoint_has_counts_as_none(directory, name):
    text = f'{{"starts": {{"4/1/{name}": 3}}}}'
    (directory / OWN_DIRECTORY / "notes.json").write_text(text)
    assert notes.failed_starts(str(directory)) == {}
    everything(str(directory))


def test_notes_that_are_longer_than_any_of_ours_are_passed_over(directory, caplog):
    text = json.dumps({"save_seconds": 5, "more": "x" * (1 << 20)})
    (directory / OWN_DIRECTORY / "notes.json").write_text(text)
    assert notes.save_seconds(str(directory)) is None
    assert "is longer than 1,048,576 bytes" in caplog.text


def test_notes_that_are_no_object_are_passed_over(directory, caplog):
    (directory / OWN_DIRECTORY / "notes.json").write_text("[1]", encoding="utf-8")
    assert own.read(str(directory), "notes.json") == {}
    assert "not a JSON object" in caplog.text


def test_a_lease_that_is_held_twice_ends_with_the_later_end_whichever_began_first(directory):
    with contextlib.ExitStack() as later:
        with lease.held(str(directory), "abc"):
            later.enter_context(lease.held(str(directory)))
        assert json.loads((directory / OWN_DIRECTORY / "lease.json").read_text())["run_id"] == "abc"
    assert sorted(os.listdir(directory / OWN_DIRECTORY)) == ["lease.lock"]


def test_two_writers_at_once_leave_what_one_of_them_wrote_and_nothing_else(directory, monkeypatch, caplog):
    def write_in_the_middle_of_another(*given):
        monkeypatch.undo()
        own.write(directory, "runs.json", {"last": "other"})
        system_calls.write_all(*given)

    own.write(directory, "runs.json", {})
    monkeypatch.setattr(system_calls, "write_all", write_in_the_middle_of_another)
    own.write(directory, "runs.json", {"last": "ours"})
    assert (own.read(directory, "runs.json"), caplog.messages) == ({"last": "ours"}, [])
    assert [
        name for name in os.listdir(Path(directory) / ".marlin-ckpt") if name.startswith((".", "runs"))
    ] == ["runs.json"]


def test_what_a_killed_writer_left_half_written_goes_with_the_next_write(directory):
    folder = Path(directory) / ".marlin-ckpt"
    (folder / ".runs.json.host.1.0123abcd.marlin-tmp").write_bytes(b"{")
    (folder / "runs.json.new").write_bytes(b"{")
    own.write(directory, "runs.json", {"last": "ours"})
    assert [one.name for one in folder.iterdir() if "runs" in one.name] == ["runs.json"]
