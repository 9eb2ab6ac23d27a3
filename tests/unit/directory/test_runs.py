"""Several runs in one directory: the one that saved last is continued, and who goes by names is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.cli.main import main
from marlin_ckpt.cli.views import run as view
from marlin_ckpt.directory import neighbours, runs
from marlin_ckpt.errors import UnknownFormatError
from marlin_ckpt.formats import manifest as manifests
from marlin_ckpt.operations import starting
from marlin_ckpt.saving import lineage


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Saves as one run under some indices, each save a second after the one before; returns the run's id."""
    clock = [0]

    def now() -> str:
        clock[0] += 1
        return f"2026-01-02T03:{clock[0] // 60:02}:{clock[0] % 60:02}.000Z"

    monkeypatch.setattr(lineage, "now", now)

    def as_a_run(*indices: int, run_id: str = "") -> str:
        own = DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=tmp_path))
        own.run_id = run_id or own.run_id
        for index in indices:
            own.save(Checkpoint({"w": float(index)}, {}, {}), index)
        return own.run_id

    return as_a_run


def start(directory: Path, **options) -> starting.Start:
    return starting.decide(DefaultCheckpointerArguments(save_dir=directory), epochs=9, resume=True, **options)


def resumed(directory: Path) -> str:
    return os.path.basename(start(directory).resumes_from)


def warnings_in(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_resume_continues_the_run_that_saved_last_and_names_it(save, tmp_path, capsys):
    first = save(0, 1, 2, 3)
    assert resumed(tmp_path) == "model_3.pt"
    assert start(tmp_path).runs == ()
    second = save(0, 1)
    assert resumed(tmp_path) == "model_1.pt"
    view.announce(start(tmp_path), quiet=False)
    told = capsys.readouterr().err
    assert f"resuming from {tmp_path / 'model_1.pt'}" in told
    assert f"continues run {second}, which saved last" in told
    assert f"run {first}" in told
    save(4, run_id=first)
    assert resumed(tmp_path) == "model_4.pt"


def test_within_a_run_the_greatest_index_counts_and_a_tie_of_times_is_broken_by_it(
    save, tmp_path, monkeypatch
):
    own = save(3, 2)
    assert resumed(tmp_path) == "model_3.pt"
    monkeypatch.setattr(lineage, "now", lambda: "2026-01-02T03:00:02.000Z")
    save(5)
    assert resumed(tmp_path) == "model_5.pt"
    save(6, run_id=own)
    assert resumed(tmp_path) == "model_6.pt"


@pytest.mark.parametrize("is_newer", [True, False])
def test_files_without_a_manifest_are_one_run_by_their_time(save, tmp_path, is_newer):
    save(0, 1, 2)
    payload = {"module_interface_state": {}, "trainer_state": {}, "trainer_backend_state": {}}
    for index in (0, 7):
        torch.save(payload, tmp_path / f"model_{index}.pt")
        os.utime(tmp_path / f"model_{index}.pt", (2e9, 2e9) if is_newer else (1e9, 1e9))
    assert resumed(tmp_path) == ("model_7.pt" if is_newer else "model_2.pt")
    assert start(tmp_path).runs.index("files without a run id") == (0 if is_newer else 1)


def test_a_damaged_file_is_of_no_run_and_is_passed_over(save, tmp_path):
    save(0, 1, 2, 3)
    save(0, 1)
    data = (tmp_path / "model_1.pt").read_bytes()
    (tmp_path / "model_1.pt").write_bytes(data[:-30])
    found = start(tmp_path)
    assert os.path.basename(found.resumes_from) == "model_0.pt"
    assert [one.partition(": ")[0] for one in found.skipped] == [str(tmp_path / "model_1.pt")]


def test_a_file_of_a_newer_format_ends_a_resume_although_its_run_is_not_known(save, tmp_path, monkeypatch):
    save(0, 1)
    write = manifests.Manifest.to_json
    monkeypatch.setattr(
        manifests.Manifest,
        "to_json",
        lambda self: write(self).replace(b'"format_version":1', b'"format_version":2'),
    )
    save(2)
    with pytest.raises(UnknownFormatError):
        start(tmp_path)


def test_latest_says_that_there_are_several_runs_and_takes_the_one_that_is_asked_for(save, tmp_path, capsys):
    first = save(0, 1, 2, 3)
    assert not (tmp_path / ".marlin-ckpt").exists()
    second = save(0, 1)
    assert main(["latest", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'model_3.pt'}\n"
    assert f"several runs have saved in {tmp_path}: run {second}, run {first}" in err
    for run, newest in ((first, "model_3.pt"), (second, "model_1.pt")):
        assert main(["latest", str(tmp_path), "--run", run, "--json"]) == 0
        out, err = capsys.readouterr()
        assert (json.loads(out)["path"], err) == (str(tmp_path / newest), "")
    assert main(["latest", str(tmp_path), "--run", "another"]) == 4
    assert "no checkpoint of run another found" in capsys.readouterr().err


def test_once_a_runs_newest_checkpoint_is_saved_over_or_gone_there_is_one_run_again(save, tmp_path, capsys):
    save(0, 1)
    second = save(0)
    assert runs.known_runs(str(tmp_path))[0] == second
    os.unlink(tmp_path / "model_1.pt")
    assert runs.known_runs(str(tmp_path)) == []
    first = save(1)
    assert runs.known_runs(str(tmp_path)) == [first, second]
    save(0, 1)
    assert runs.known_runs(str(tmp_path)) == []
    assert main(["latest", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""


def test_a_save_below_the_indices_of_another_run_warns_once_and_names_what_stays_the_newest(
    save, tmp_path, caplog
):
    first = save(0, 10, 40)
    assert warnings_in(caplog) == []
    save(0, 10, 20)
    (told,) = warnings_in(caplog)
    assert str(tmp_path / "model_40.pt") in told
    assert first in told
    caplog.clear()
    save(50, 60)  # above all
    save(61, 3, run_id=first)  # the run itself, which has gone on
    assert warnings_in(caplog) == []


def test_a_resumed_run_reads_one_manifest_and_still_knows_the_other_runs(save, tmp_path, monkeypatch):
    first, second = save(0, 1), save(2, 3)
    seen = []

    def look(entry):
        seen.append(entry.item.name)
        return inspect(entry)

    inspect = neighbours.inspect
    monkeypatch.setattr(neighbours, "inspect", look)
    save(4, run_id=second)
    assert seen == ["model_3.pt"]
    assert runs.known_runs(str(tmp_path)) == [second, first]
    os.unlink(tmp_path / "model_1.pt")  # its newest; an older one is left
    save(5, run_id=second)
    assert runs.read(str(tmp_path)) == (second, {first: "model_0.pt"})


def test_a_directory_may_have_more_than_a_hundred_runs(tmp_path):
    others = {f"run{number}": f"model_{number}.pt" for number in range(150)}
    (tmp_path / ".marlin-ckpt").mkdir()
    runs.write(str(tmp_path), "last", others)
    assert runs.read(str(tmp_path)) == ("last", others)


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b'{"last": 3}',
        b'{"last": "a", "others": []}',
        b'{"last": "a", "others": {"b": "../../etc/passwd"}}',
        b'{"last": "a", "others": {"b": 3, "%s": "x"}}' % (b"c" * 256),
        b'{"last": "%s", "others": {"b": "x"}}' % (b"a" * 256),
    ],
)
def test_a_file_of_runs_that_we_have_not_written_counts_for_nothing(tmp_path, content):
    (tmp_path / ".marlin-ckpt").mkdir()
    (tmp_path / ".marlin-ckpt" / "runs.json").write_bytes(content)
    (tmp_path / "x").touch()
    assert runs.known_runs(str(tmp_path)) == []
