"""Runs on a device that are stopped or killed go on as if they had never been."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest
import torch

from marlin_ckpt import MarlinError, Preempted, TrainerArguments
from marlin_ckpt.cli.main import main
from marlin_ckpt.training import setting
from marlin_ckpt.training.resume import rng
from tests.support.device_runs import fresh, without_devices
from tests.support.folders import REPOSITORY, SUPPORT
from tests.support.proven_modules import Careful
from tests.support.stopped_runs import STEPS, StopsAt, assert_same, trainer_in


class Odd(Careful):
    """One with dropout that the device draws, and an AdamW of any kind."""

    def __init__(self, **kinds):
        workers = kinds.pop("workers", 0)
        super().__init__(workers=workers)
        self.kinds = kinds


_CASES = {
    "plain": ({}, {}, {}),
    "deterministic": ({}, {"deterministic": True}, {}),
    "behind": ({}, {"index_by": "step"}, {"period": 1, "async_save": True}),
    "at once": ({"fused": True}, {"index_by": "step"}, {"async_save": True, "overlap": False}),
    "checked": ({}, {"index_by": "step"}, {"async_save": True, "check_overlap": True}),
    "workers": ({"fused": True, "workers": 2}, {"gpu_batch_size_limit": 4}, {"async_save": True}),
    "bfloat16": ({"foreach": True}, {"backend": "sp-amp", "amp_dtype": "bfloat16"}, {"async_save": True}),
    "float16": ({"fused": True}, {"backend": "sp-amp", "amp_dtype": "float16"}, {"async_save": True}),
    "float16, plain": ({}, {"backend": "sp-amp", "amp_dtype": "float16"}, {}),
    "capturable": ({"capturable": True}, {"index_by": "step"}, {"async_save": True}),
}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # Python 3.12, of a worker's fork
@pytest.mark.parametrize("case", _CASES)
def test_stopped_at_many_steps_it_ends_as_if_never_stopped(tmp_path, device, case):
    kinds, fields, checkpointer = _CASES[case]
    if case == "capturable" and device.type == "cpu":
        pytest.skip("torch refuses that")
    fields = {"device": device.type, "exact": True, **fields}

    def run(folder, *stops):
        observer = StopsAt(*stops)
        made = trainer_in(tmp_path / folder, observer, lambda: Odd(**kinds), checkpointer, **fields)
        if stops:
            with pytest.raises(Preempted):
                made.train()
        else:
            made.train()
        return made, observer

    try:
        whole, straight = run("whole")
        losses = []
        for stop in (1, 5, 6, 9):
            losses += run("cut", stop)[1].losses
        cut, observer = run("cut")
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert losses + observer.losses == straight.losses
    assert len(straight.losses) == STEPS
    assert observer.metrics == straight.metrics
    assert next(whole.module.parameters()).device.type == device.type
    assert_same(whole, cut)


def test_the_states_of_the_devices_generators_are_saved_and_restored(tmp_path, cuda):
    torch.manual_seed(5)
    before = rng.states()
    assert len(before["cuda"]) == torch.cuda.device_count()

    def draw() -> list[torch.Tensor]:
        dropped = torch.nn.functional.dropout(torch.ones(99, device=cuda))
        return [dropped, torch.rand(9, device=cuda), torch.rand(9)]

    drawn = draw()
    torch.save(before, tmp_path / "states.pt")
    for saved in (before, torch.load(tmp_path / "states.pt", map_location=cuda)):
        torch.rand(50, device=cuda)
        assert rng.restore(saved) == []
        assert all(map(torch.equal, drawn, draw()))
    with rng.preserved():
        torch.rand(50, device=cuda)
    assert torch.equal(rng.states()["cuda"][0], torch.cuda.get_rng_state())


def test_a_state_of_another_number_of_devices_is_reported_as_lost(cuda):
    saved = rng.states()
    saved["cuda"] = saved["cuda"] * 3
    assert rng.restore(saved) == [
        f"there were {len(saved['cuda'])} CUDA devices and there are {torch.cuda.device_count()}"
    ]


def test_auto_is_the_device_and_without_use_gpu_the_cpu(cuda):
    assert setting.device_of(TrainerArguments()).type == cuda.type
    assert setting.device_of(TrainerArguments(use_gpu=False)).type == "cpu"
    with pytest.raises(MarlinError, match="cuda:99"):
        setting.device_of(TrainerArguments(device="cuda:99"))


def _spiral(epochs: int, device: torch.device, *more: str) -> list[str]:
    sets = [f"trainer.epochs={epochs}", f"trainer.device={device.type}", "checkpointer.async_save=true"]
    options = [part for one in (*sets, *more) for part in ("--set", one)]
    config = str(REPOSITORY / "configs" / "ci.yaml")
    return ["-m", "marlin_ckpt", "train", "--config", config, *options]


def test_a_run_that_goes_on_without_its_device_says_so_and_exact_refuses(tmp_path, cuda):
    overrides = f"checkpointer.save_dir={tmp_path}", "checkpointer.delete_existing_checkpoints=false"
    ended = fresh(*_spiral(1, cuda, *overrides))
    assert ended.returncode == 0, ended.stderr
    there = without_devices(*_spiral(2, cuda, *overrides), "--resume")
    assert there.returncode != 0
    assert "is not there" in there.stderr
    elsewhere = _spiral(2, torch.device("cpu"), *overrides)
    refused = without_devices(*elsewhere, "--resume", "--set", "trainer.exact=true")
    assert (refused.returncode, "device was cuda and is cpu" in refused.stderr) == (1, True), refused.stderr
    ended = without_devices(*elsewhere, "--resume", "--set", "checkpointer.log_level=INFO")
    assert ended.returncode == 0, ended.stderr
    assert "device was cuda and is cpu" in ended.stderr


_CONFIG = """
module:
  name: proven_modules:Careful
  args: {args}
trainer:
  epochs: 3
  train_batch_size: 8
  val_batch_size: 16
  index_by: step
  device: {device}
  backend: {backend}
  amp_dtype: {dtype}
checkpointer:
  save_dir: never-used
  async_save: true
  period: 1
"""


@pytest.mark.parametrize(
    ("args", "backend", "dtype"),
    [({}, "sp", "auto"), ({"fused": True}, "sp-amp", "float16"), ({"workers": 2}, "sp-amp", "bfloat16")],
    ids=["sp", "float16", "bfloat16"],
)
def test_killed_runs_are_proved_to_go_on_identically(
    tmp_path, device, monkeypatch, capsys, args, backend, dtype
):
    monkeypatch.chdir(tmp_path)
    paths = [str(SUPPORT), str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.syspath_prepend(SUPPORT)
    settings = {"args": json.dumps(args), "device": device.type, "backend": backend, "dtype": dtype}
    Path("run.yaml").write_text(_CONFIG.format(**settings))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kills = "1,3:save,8:signal"
        code = main(["prove-resume", "--config", "run.yaml", "--json", "--steps", "12", "--kill-at", kills])
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert code == 0, (found, err)
    assert (found["identical"], found["difference"]) == (True, None)
    assert len(found["kills"]) + len(found["missed"]) == 3
