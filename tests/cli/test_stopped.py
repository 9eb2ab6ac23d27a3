"""What a long command says it has done where Ctrl-C or SIGTERM stops it: for people, and as its document."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from marlin_ckpt.formats import verification
from marlin_ckpt.operations.pairs import Pairs
from marlin_ckpt.storage.local import writer
from marlin_ckpt.storage.local.store import LocalStore
from tests.support.folders import visible


@pytest.fixture
def files(make_checkpointer, make_checkpoint, tmp_path, monkeypatch) -> list[str]:
    """Five checkpoints, the third of them damaged, in the working directory's `checkpoints`."""
    monkeypatch.chdir(tmp_path)
    checkpointer = make_checkpointer()
    paths = [os.path.relpath(checkpointer.save(make_checkpoint(loss=1.0 + at), at)) for at in range(5)]
    data = bytearray(Path(paths[2]).read_bytes())
    data[len(data) // 2] ^= 1
    Path(paths[2]).write_bytes(data)
    return paths


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def stop(request, monkeypatch):
    """Has a function send the signal before its n-th call; gives the exit code and the verb that follow."""

    def arrange(owner: object, name: str, call: int = 1) -> tuple[int, str]:
        original, calls = getattr(owner, name), [0]

        def stopped(*args: object, **options: object) -> object:
            calls[0] += 1
            if calls[0] == call:
                os.kill(os.getpid(), request.param)
            return original(*args, **options)

        monkeypatch.setattr(owner, name, stopped)
        verb = "interrupted" if request.param == signal.SIGINT else "terminated"
        return 128 + request.param, verb

    return arrange


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (1, "0 of 5 files verified, none damaged so far"),
        (3, "2 of 5 files verified, none damaged so far"),
        (5, "4 of 5 files verified, 1 damaged so far: checkpoints/model_2.pt"),
    ],
)
def test_verify_says_how_many_files_are_verified_and_which_are_damaged(run_main, stop, files, call, says):
    code, verb = stop(verification, "verify", call)
    assert run_main("verify", "checkpoints") == (code, "", f"{verb}: {says}\n")


def test_the_document_of_a_stopped_verify_has_the_verdicts_so_far(run_main, stop, files):
    code, _ = stop(verification, "verify", 4)
    ended, out, _ = run_main("verify", "checkpoints", "--json")
    found = json.loads(out)
    assert (ended, found["error"]["exit_code"]) == (code, code)
    assert [one["status"] for one in found["files"]] == ["intact", "intact", "corrupt"]


@pytest.mark.parametrize(
    "command",
    [
        "export checkpoints/model_1.pt -o out.safetensors",
        "export checkpoints/model_1.pt -o out/",
        "average checkpoints/model_0.pt checkpoints/model_1.pt -o out.pt",
        "salvage checkpoints/model_2.pt -o out.pt",
    ],
)
def test_a_command_that_writes_says_that_nothing_was_written_and_leaves_nothing(
    run_main, stop, files, command
):
    code, verb = stop(writer, "open_writer")
    assert run_main(*command.split()) == (code, "", f"{verb}: nothing was written\n")
    assert visible(".") == ["checkpoints"]


def test_a_report_that_is_stopped_while_it_looks_says_that_nothing_was_written(run_main, stop, files):
    from marlin_ckpt.operations.report import gathering

    code, verb = stop(gathering, "gather")
    assert run_main("report", "checkpoints") == (code, "", f"{verb}: nothing was written\n")
    assert visible(".") == ["checkpoints"]


def test_a_report_that_is_stopped_while_it_reads_tensors_says_that_they_need_not_be_read_again(
    run_main, stop, files
):
    from marlin_ckpt.operations.report import figures

    code, verb = stop(figures, "_read", 2)
    kept = "what was read so far is kept, so that the next time is shorter"
    ended = run_main("report", "checkpoints", "--stats")
    assert ended == (code, "", f"{verb}: report.html was not written; {kept}\n")
    assert [*json.loads(Path(figures.cache_path("checkpoints")).read_text())["files"]] == ["model_0.pt"]


def test_a_command_that_is_stopped_when_it_has_written_says_so(run_main, stop, files):
    from marlin_ckpt.cli.views import weights_file

    Path("out.pt").write_text("old")
    code, verb = stop(weights_file, "show")
    ended, _, err = run_main("export", "checkpoints/model_1.pt", "-o", "out.pt", "--force")
    assert (ended, err.splitlines()[0]) == (code, f"{verb}: out.pt is written")
    assert Path("out.pt").read_bytes() != b"old"


def test_diff_says_how_many_tensors_are_compared_and_which_differ(run_main, stop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2)}, "one.pt")
    torch.save({"a": torch.ones(2), "b": torch.zeros(2), "c": torch.ones(2)}, "other.pt")
    from marlin_ckpt.cli.views import comparison

    code, verb = stop(comparison.Done, "pair", 3)
    assert run_main("diff", "one.pt", "other.pt") == (
        code, "", f"{verb}: 2 of 3 tensors compared, 1 different so far: b\n",
    )  # fmt: skip


def test_diff_that_has_compared_nothing_says_so(run_main, stop, files):
    code, verb = stop(Pairs, "measure")
    ended, out, _ = run_main("diff", files[0], files[1], "--json")
    assert (ended, json.loads(out)["paths"]) == (code, files[:2])
    stop(Pairs, "measure", 1)
    assert run_main("diff", files[0], files[1])[2] == f"{verb}: no tensors were compared\n"


@pytest.mark.parametrize(
    ("options", "method", "says"),
    [
        ([], "remove", "2 files were removed"),
        (["--to-trash"], "move", "2 files were moved to the trash"),
    ],
)
def test_clean_says_how_many_files_are_gone(run_main, stop, files, options, method, says):
    code, verb = stop(LocalStore, method, 3)
    ended, _, err = run_main("clean", "checkpoints", *options)
    assert (ended, err) == (code, f"{verb}: {says}\n")
    assert len(list(Path("checkpoints").glob("model_*"))) == 3


def test_the_document_of_a_stopped_clean_has_what_is_gone_and_so_has_the_history(run_main, stop, files):
    from marlin_ckpt.directory.history import journal, reading

    Path("checkpoints/.marlin-ckpt").mkdir(exist_ok=True)
    Path("checkpoints/.marlin-ckpt/events.jsonl").touch()
    code, _ = stop(LocalStore, "remove", 2)
    ended, out, _ = run_main("clean", "checkpoints", "--json")
    assert (ended, [one["path"] for one in json.loads(out)["removed"]]) == (code, [files[0]])
    assert journal.exists("checkpoints")
    assert "model_0.pt" in str(reading.read("checkpoints"))


def test_clean_undo_says_how_many_files_are_back(run_main, stop, files):
    run_main("clean", "checkpoints", "--to-trash")
    code, verb = stop(LocalStore, "move", 2)
    assert run_main("clean", "checkpoints", "--undo")[::2] == (code, f"{verb}: 1 file was brought back\n")


def test_clean_that_has_removed_nothing_yet_says_so(run_main, stop, files):
    code, verb = stop(LocalStore, "remove")
    assert run_main("clean", "checkpoints") == (code, "", f"{verb}: nothing was removed\n")
    assert len(visible("checkpoints")) == 5


def test_prove_resume_says_where_it_was(run_main, monkeypatch, tmp_path):
    from marlin_ckpt.training.proof import proof

    def prove(trial: object, on_step):
        on_step("straight", 3, 9)
        raise KeyboardInterrupt

    monkeypatch.setattr(proof, "prove", prove)
    assert run_main("prove-resume", "--config", "run.yaml", "--quiet") == (
        130, "", "interrupted: training without a stop, step 3 of 9; nothing is proven\n",
    )  # fmt: skip


def test_a_command_that_has_nothing_to_say_is_silent(run_main, stop, files):
    from marlin_ckpt.directory import catalog

    code, _ = stop(catalog, "listed")
    assert run_main("list", "checkpoints") == (code, "", "")
