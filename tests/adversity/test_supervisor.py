"""A supervisor that starts a run again whenever it has died ends with the run that never died."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import torch

from marlin_ckpt import DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.training.resume.leaves import how_different, leaves
from tests.support import warm
from tests.support.folders import REPOSITORY, SUPPORT

_CONFIG = """
module: {name: "proven_modules:Careful", args: {workers: 1}}
trainer: {epochs: EPOCHS, train_batch_size: 8, val_batch_size: 16, device: cpu, seed: 1, index_by: step}
checkpointer: {period: 5, async_save: true, model_state_save_dir: null}
"""


def start(directory: Path, name: str) -> subprocess.Popen:
    script = "import sys; from marlin_ckpt.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "train", "--config", "run.yaml", "--resume", "--exact"]
    command += ["--set", f"checkpointer.save_dir={name}"]
    paths = os.pathsep.join(map(os.fspath, [SUPPORT, REPOSITORY]))
    env = {**os.environ, "PYTHONPATH": paths}
    return warm.Popen(
        command, cwd=directory, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


def end(directory: Path) -> dict:
    args = DefaultCheckpointerArguments(load_dir=str(directory))
    return dict(leaves(DefaultCheckpointer(args).load().payload()))


def test_however_often_it_is_killed_the_weights_are_those_of_the_run_never_touched(tmp_path, cases):
    kills, draws = cases(2, 50), random.Random(7)
    epochs = cases(10, 120)  # so many that it is not finished before the last kill
    (tmp_path / "run.yaml").write_text(_CONFIG.replace("EPOCHS", str(epochs)))
    whole = start(tmp_path, "whole")
    said = whole.communicate(timeout=300)[1]
    assert whole.returncode == 0, said
    codes = []
    for number in range(kills):
        run = start(tmp_path, "cut")
        # Dies when it has saved so many files; the first ones may be over before that.
        left = draws.randint(0, 3)
        for line in run.stderr:
            left -= line.startswith("saved ")
            if left < 0:
                run.send_signal((signal.SIGTERM, signal.SIGKILL)[number % 2])
                break
        with run:
            said = run.stderr.read()
            codes.append(run.wait(120))
        assert codes[-1] in (0, 143, -signal.SIGKILL), said
    assert codes.count(143) + codes.count(-signal.SIGKILL) == kills, codes
    last = start(tmp_path, "cut")
    said = last.communicate(timeout=300)[1]
    assert last.returncode == 0, said
    again = start(tmp_path, "cut")
    said = again.communicate(timeout=300)[1]
    assert again.returncode == 0
    assert f"Nothing is left to train: epoch {epochs} is done" in said
    ours, theirs = end(tmp_path / "cut"), end(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert {key: told for key in ours if (told := how_different(ours[key], theirs[key]))} == {}
    assert json.loads((tmp_path / "cut/.marlin-ckpt/notes.json").read_text())["starts"] == {}
    assert isinstance(ours["module_interface_state/layers.0.weight"], torch.Tensor)
