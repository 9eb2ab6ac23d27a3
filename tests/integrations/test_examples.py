"""The examples of loops of one's own: killed and started again, they end as if nothing had happened."""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import shutil
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import marlin_ckpt
from marlin_ckpt.cli.main import main
from marlin_ckpt.operations.report.gathering import gather
from tests.support import ranks
from tests.support.clones import Clones
from tests.support.equality import is_same
from tests.support.folders import REPOSITORY
from tests.support.foreign.corpus import CHECKPOINTS
from tests.support.shared_saves import origins

EXAMPLES = sorted(path.stem for path in (REPOSITORY / "examples").glob("*.py"))


def _example(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, REPOSITORY / "examples" / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _run(module: ModuleType, *arguments: Any, until: str = "") -> int:
    """Runs an example in a child, which is killed when it has printed a line that begins so."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.dup2(write, 1)
            os.close(read)
            module.print = lambda *words, **_: os.write(1, (" ".join(map(str, words)) + "\n").encode())
            module.main(*map(str, arguments))
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with open(read) as said:
        for line in said:
            if until and line.startswith(until):
                os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_an_own_loop_that_is_killed_and_started_again_ends_with_the_same_state(tmp_path: Path) -> None:
    own = _example("own_loop")
    own.STEPS = 20
    text = REPOSITORY / "LICENSE"
    assert _run(own, text, tmp_path / "straight") == 0
    assert _run(own, text, tmp_path / "killed", until="step 10") == -signal.SIGKILL
    assert _run(own, text, tmp_path / "killed") == 0
    states = [marlin_ckpt.load(tmp_path / name / "model_20.pt") for name in ("straight", "killed")]
    assert is_same(*states)


def test_a_loop_into_a_bucket_that_is_killed_goes_on_there_and_ends_with_the_same_state(s3: str) -> None:
    bucket = _example("into_a_bucket")
    assert _run(bucket, f"{s3}/straight") == 0
    assert _run(bucket, f"{s3}/killed", until="step 30") == -signal.SIGKILL
    assert _run(bucket, f"{s3}/killed") == 0
    states = [marlin_ckpt.load(f"{s3}/{name}/model_60.pt") for name in ("straight", "killed")]
    assert is_same(*states)


def test_an_adapter_of_a_frozen_backbone_goes_on_after_a_kill_and_its_files_share_the_backbone(
    tmp_path: Path, clones: Clones
) -> None:
    frozen = _example("frozen_backbone")
    assert _run(frozen, tmp_path / "straight") == 0
    assert _run(frozen, tmp_path / "killed", until="step 3") == -signal.SIGKILL
    assert _run(frozen, tmp_path / "killed") == 0
    states = [marlin_ckpt.load(tmp_path / name / "model_8.pt") for name in ("straight", "killed")]
    assert is_same(*states)
    written = [[*origins(tmp_path / f"straight/model_{step}.pt").values()] for step in range(3, 9)]
    assert written == [[1], [2], [1], [2], [1], [2]]


def test_ranks_of_fsdp2_that_lose_one_and_start_again_end_with_the_same_state(
    tmp_path: Path,
) -> None:
    def run(name: str, kill_at: int = 0) -> list[ranks.Ended]:
        about = {"directory": str(tmp_path / name), "steps": 20, "kill_at": kill_at}
        return ranks.Run(2, "tests.support.example_ranks:fsdp2", **about).ended()

    assert [one.code for one in run("straight")] == [0, 0]
    first, second = run("killed", kill_at=15)
    assert (first.code, second.code) == (-signal.SIGKILL, 1)
    again = run("killed")
    assert [one.code for one in again] == [0, 0]
    assert again[0].result[0].split()[1] in {"10", "15", "20"}  # behind the loop one was being saved
    states = [marlin_ckpt.load(tmp_path / name / "model_20.dcp") for name in ("straight", "killed")]
    assert is_same(*states)


def test_a_compiled_loop_with_a_fused_optimizer_goes_on_from_its_file(tmp_path: Path, capsys) -> None:
    compiled = _example("compiled")
    path = tmp_path / "last.pt"
    compiled.STEPS = 10
    compiled.main(str(path), "aot_eager")
    shutil.copy(path, tmp_path / "first.pt")
    compiled.STEPS = 15
    compiled.main(str(path), "aot_eager")
    assert capsys.readouterr().out.splitlines() == [
        "from step 0", "saved step 5", "saved step 10", "from step 10", "saved step 15",
    ]  # fmt: skip
    first, last = (marlin_ckpt.load(one) for one in (tmp_path / "first.pt", path))
    assert not torch.equal(first["model"]["0.weight"], last["model"]["0.weight"])
    manifests = [marlin_ckpt.inspect(one).manifest for one in (tmp_path / "first.pt", path)]
    assert manifests[0].run_id == manifests[1].run_id
    assert [*last["model"]] == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short(name: str) -> None:
    assert len((REPOSITORY / "examples" / f"{name}.py").read_text().splitlines()) < 60


def test_the_metrics_of_a_run_are_a_table_that_has_those_of_removed_checkpoints_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with marlin_ckpt.CheckpointDirectory(tmp_path, keep=1) as checkpoints:
        for index in range(3):
            checkpoints.save({"step": index}, index, metrics={"loss": 1 / (index + 1)})
    assert main(["log", str(tmp_path), "--json"]) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(capsys.readouterr().out))
    _example("metrics_of_a_run").main()
    titles, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert titles == ["at", "run", "event", "step", "loss"]
    assert [float(row[-1]) for row in rows] == [1.0, 0.5, 1 / 3]
    assert len([*tmp_path.glob("*.pt")]) == 1


def test_a_loop_with_statistics_has_a_report_of_what_was_removed_and_what_moved(tmp_path: Path) -> None:
    directory, page = tmp_path / "runs", tmp_path / "report.html"
    _example("report_of_a_loop").main(str(directory), str(page))
    assert page.read_text(encoding="utf-8").count("removed by keep") >= 8
    found = gather(str(directory))
    assert (len(found.points), found.totals.removed) == (12, 8)
    assert found.movement is not None
    assert found.movement.tensors == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert len(found.movement.columns) == 4
    assert found.movement.missing == 0


def test_checkpoints_of_other_tools_are_checked_and_a_shard_that_is_missing_counts(tmp_path, capsys):
    made = [CHECKPOINTS[name](tmp_path) for name in ("hf-sharded", "dcp", "lightning")]
    paths = [str(one.path) for one in made]
    check = _example("whole_folders")
    assert check.main(*paths) == 0
    (made[1].path / "__1_0.distcp").unlink()
    assert check.main(*paths) == 1
    assert f"{paths[1]}: incomplete: __1_0.distcp is missing" in capsys.readouterr().out
