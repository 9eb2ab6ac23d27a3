"""Runs that torchrun itself starts, ends and starts again; few of them, since each start takes seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

from marlin_ckpt.cli.main import main
from tests.support import torchrun
from tests.support.folders import REPOSITORY
from tests.support.rank_modules import config

PATIENCE_S = 240


def start(directory: Path, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.Popen:
    """Starts torchrun, with two ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return torchrun.Popen(
        [*command, *options, "-m", "marlin_ckpt", *arguments], cwd=directory, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.fspath(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_restart_by_torchrun_goes_on_with_its_run_after_a_rank_was_killed(tmp_path):
    path = config(tmp_path, does="kill", at=[1, 5])
    process = start(tmp_path, "train", "--config", str(path), "--json", options=("--max-restarts", "1"))
    out, err = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, err
    failed, end = json.JSONDecoder().raw_decode(out)  # each start prints its document
    assert (failed["error"]["exit_code"], failed["global_steps"]) == (1, 4)
    document = json.loads(out[end:])
    assert (document["global_steps"], document["steps_trained"]) == (9, 5)
    assert os.path.basename(document["resumed_from"]) == "model_4.pt"
    assert document["ranks"] == 2
    assert sum("error:" in line for line in err.splitlines()) == 1


def test_sigterm_to_torchrun_stops_all_ranks_saved_and_the_grace_is_compared_with_its_own(tmp_path):
    path = config(tmp_path, does="waits", at=[0, 5])
    options = ("--set", "trainer.preempt_grace_seconds=60")
    process = start(tmp_path, "train", "--config", str(path), *options)
    said = []
    for line in process.stderr:
        said.append(line)
        if "waits for a signal" in line:
            process.send_signal(signal.SIGTERM)
            break
    out, err = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, out) == (1, "")
    assert "terminated; last checkpoint: " in err
    assert (tmp_path / "checkpoints" / "model_5.pt").is_file()
    warned = "torchrun kills its processes 30 s after a signal, and preempt_grace_seconds is 60"
    assert "".join(said).count(warned) == 1


def test_a_run_on_two_ranks_of_which_one_is_killed_is_proven_to_resume_identically(
    tmp_path, monkeypatch, capsys, cases
):
    kills = ["2", "3:validation@1", "5:signal@0", "7:save@1"] if cases(0, 1) else ["3:validation@1"]
    steps = cases(4, 9)
    starts = types.SimpleNamespace(Popen=torchrun.Popen, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr("marlin_ckpt.training.proof.many.subprocess", starts)
    monkeypatch.setenv("PYTHONPATH", os.fspath(REPOSITORY))
    monkeypatch.chdir(tmp_path)
    proof = ["prove-resume", "--config", str(config(tmp_path, backend="fsdp2")), "--nproc", "2"]
    code = main([*proof, "--steps", str(steps), "--kill-at", ",".join(kills), "--json"])

    out, err = capsys.readouterr()
    assert code == 0, err
    found = json.loads(out)
    assert (found["identical"], found["kills"], found["missed"]) == (True, kills, [])
    assert (found["steps"], found["ranks"]) == (steps, 2)
    assert found["compared"]["batches"] == 2 * steps  # of both ranks
