"""Trainings on a device with the adapters and with a CheckpointDirectory, stopped and resumed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import marlin_ckpt
from tests.support.async_runs import same
from tests.support.device_runs import DeviceRun, keep_busy

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own, which differ from release to release
_GROWTH = 3  # steps after which the scale of a loss in float16 grows, until it is too large and shrinks


def need_float16(device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("only CUDA scales losses in float16")


def ends(model: torch.nn.Module, scaler: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What a training ends with: the weights, and the scale of the loss if there is one."""
    return model.state_dict(), scaler.state_dict() if scaler is not None else {}


def by_lightning(
    directory: Path, device: torch.device, precision: str, steps: int, **saving: Any
) -> tuple[Any, Any]:
    """Trains until a step, from the last checkpoint if there is one."""
    runs = import_module("tests.support.lightning_runs")
    runs.quieten()
    hardware = {
        "accelerator": "gpu" if device.type == "cuda" else "cpu",
        "devices": 1,
        "precision": precision,
    }
    trainer = runs.trainer_for(
        str(directory), runs.MarlinCheckpointIO(async_save=True), steps, hardware, **saving
    )
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is not None:
        scaler.set_growth_interval(_GROWTH)
    net = runs.Net(4096 if device.type == "cuda" else 16)
    trainer.fit(net, runs.batches(), ckpt_path="last")
    return ends(net, scaler)


@pytest.mark.parametrize("save_last", [True, "link"])
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_a_trainer_of_lightning_that_is_stopped_twice_ends_as_if_it_had_not_been(
    tmp_path, device, precision, save_last
):
    pytest.importorskip("lightning")
    if precision == "16-mixed":
        need_float16(device)
    saving = {"save_last": save_last, "monitor": None}  # so that the last is the newest, not the best
    whole = by_lightning(tmp_path / "whole", device, precision, 14, **saving)
    for steps in (4, 10):  # the end of an epoch, and the middle of one
        stopped = by_lightning(tmp_path / "cut", device, precision, steps, **saving)
        assert not same(stopped[0], whole[0])
    assert same(by_lightning(tmp_path / "cut", device, precision, 14, **saving), whole)
    state = torch.load(
        tmp_path / "cut" / "last.ckpt", "cpu", weights_only=False
    )  # where Lightning leaves the net
    assert state["global_step"] == 14
    assert same(state["state_dict"], whole[0])
    if precision == "16-mixed":
        assert state["MixedPrecision"] == whole[1]


@pytest.fixture
def accelerate() -> Iterator[Any]:
    """The package, which keeps one setting for a process, that of its first object."""
    package = pytest.importorskip("accelerate")
    package.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield package
    package.state.AcceleratorState._reset_state(reset_partial_state=True)


def by_transformers(directory: Path, device: torch.device, precision: str, stop: int = 0) -> tuple[Any, Any]:
    """Trains six steps, or until a step, from the newest checkpoint if there is one."""
    runs = import_module("tests.support.trainer_runs")
    one = runs.trainer(str(directory), use_cpu=device.type == "cpu", **{precision: True})

    class Stop(import_module("transformers").TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop |= state.global_step == stop

    one.add_callback(Stop())
    if one.accelerator.scaler is not None:
        one.accelerator.scaler.set_growth_interval(_GROWTH)
    one.train(resume_from_checkpoint=os.path.isdir(directory) and any(directory.glob("checkpoint-*")))
    assert one.args.device.type == device.type
    assert one.state.global_step == (stop or runs.STEPS)
    return ends(one.model, one.accelerator.scaler)


@pytest.mark.usefixtures("accelerate")
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_trainer_of_transformers_that_is_stopped_twice_ends_as_if_it_had_not_been(
    tmp_path, device, precision
):
    pytest.importorskip("transformers")
    if precision == "fp16":
        need_float16(device)
    whole = by_transformers(tmp_path / "whole", device, precision)
    for stop in (2, 5):
        assert not same(by_transformers(tmp_path / "cut", device, precision, stop)[0], whole[0])
    assert same(by_transformers(tmp_path / "cut", device, precision), whole)
    found = {one.name: marlin_ckpt.verify(one).status for one in (tmp_path / "cut").glob("checkpoint-*")}
    assert found == dict.fromkeys(["checkpoint-5", "checkpoint-6"], "intact")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_training_with_accelerate_that_is_stopped_ends_as_if_it_had_not_been(
    tmp_path, device, precision, accelerate
):
    options: dict[str, Any] = {"mixed_precision": precision, "cpu": device.type == "cpu"}
    if precision == "fp16":
        need_float16(device)
        options["kwargs_handlers"] = [accelerate.utils.GradScalerKwargs(growth_interval=_GROWTH)]
    runs = import_module("tests.support.accelerate_runs")

    def training(name: str) -> Any:
        return runs.Training(str(tmp_path / name), is_ours=True, **options)

    whole = training("whole")
    weights = whole.train()
    assert training("cut").train(epochs=2) != weights
    resumed = training("cut")
    resumed.accelerator.load_state()
    assert resumed.epoch.done == 2
    assert resumed.accelerator.device.type == device.type
    assert resumed.train() == weights
    scalers = [one.accelerator.scaler for one in (whole, resumed)]
    assert [one is None for one in scalers] == [precision == "bf16"] * 2
    if precision == "fp16":
        assert scalers[0].state_dict() == scalers[1].state_dict()


@pytest.mark.parametrize("kind", ["default", "foreach", "fused"])
def test_a_loop_with_a_directory_that_is_stopped_twice_ends_as_if_it_had_not_been(tmp_path, device, kind):
    def run(name: str, stop: int) -> dict[str, Any]:
        one = DeviceRun(device, **({} if kind == "default" else {kind: True}))
        live = {"model": one.module, "optimizer": one.optimizer, "done": 0}
        with marlin_ckpt.CheckpointDirectory(tmp_path / name, keep=2, asynchronous=True) as directory:
            if directory.latest() is not None:
                live["done"] = directory.load(into=live)["done"]
            for number in range(live["done"], stop):
                torch.manual_seed(number)
                keep_busy(device)
                one.step()
                directory.save({**live, "done": number + 1}, number + 1)
            directory.wait()
            assert directory.latest().index == stop
        return {name: live[name].state_dict() for name in ("model", "optimizer")}

    whole = run("whole", 9)
    for stop in (3, 7):
        assert not same(run("cut", stop), whole)
    assert same(run("cut", 9), whole)
    assert sorted(one.name for one in (tmp_path / "cut").glob("*.pt")) == ["model_8.pt", "model_9.pt"]
    found = torch.load(tmp_path / "cut" / "model_9.pt", weights_only=True)
    assert same({name: found[name] for name in whole}, whole)
