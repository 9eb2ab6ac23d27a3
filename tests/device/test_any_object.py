"""Objects of the user's on a device, saved and loaded by `marlin_ckpt.save`, `Saver` and `load`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import marlin_ckpt
from tests.support.async_runs import same
from tests.support.descriptions import describe
from tests.support.device_runs import DeviceRun, keep_busy


class Training(DeviceRun):
    """A loop in mixed precision, with a schedule."""

    def __init__(self, device: torch.device, **options: Any) -> None:
        super().__init__(device, **options)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 50)
        self.scaler = torch.amp.GradScaler(device.type, growth_interval=3)

    def step(self) -> None:
        batch = torch.randn(32, self.width, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = self.module(batch).float().square().mean()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.scheduler.step()

    def live(self) -> dict[str, Any]:
        return {
            "model": self.module,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
            "step": 7,
        }

    def states(self) -> dict[str, Any]:
        return {
            name: one.state_dict() if hasattr(one, "state_dict") else one for name, one in self.live().items()
        }


@pytest.mark.parametrize("kind", ["default", "foreach", "fused", "capturable"])
def test_what_a_loop_has_on_a_device_comes_back_bit_for_bit_into_another_loop(tmp_path, device, kind):
    if kind == "capturable" and device.type == "cpu":
        pytest.skip("torch refuses that")
    options = {} if kind == "default" else {kind: True}
    run, other = Training(device, **options), Training(device, **options)
    for _ in range(4):
        run.step()
    other.step()
    path = tmp_path / "run.pt"
    marlin_ckpt.save(run.live(), path)
    wanted = describe(copy.deepcopy(run.states()))
    assert describe(torch.load(path)) == wanted
    addresses = [one.data_ptr() for one in other.module.state_dict().values()]
    assert marlin_ckpt.load(path, into=other.live())["model"] is other.module
    assert describe(copy.deepcopy(other.states())) == wanted
    assert [one.data_ptr() for one in other.module.state_dict().values()] == addresses
    after = []
    for one in (run, other):
        torch.manual_seed(3)
        one.step()
        after.append(one.states())
    assert same(*after)


def test_a_file_of_what_was_on_a_device_loads_to_the_cpu_and_to_the_device(tmp_path, device):
    run = Training(device)
    run.step()
    marlin_ckpt.save(run.live(), tmp_path / "run.pt")
    here = marlin_ckpt.load(tmp_path / "run.pt")
    there = marlin_ckpt.load(tmp_path / "run.pt", map_location=device)
    assert {one.device.type for one in here["model"].values()} == {"cpu"}
    assert {one.device.type for one in there["model"].values()} == {device.type}
    assert describe(here) == describe(torch.load(tmp_path / "run.pt", map_location="cpu"))
    assert describe(there) == describe(torch.load(tmp_path / "run.pt", map_location=device))


@pytest.mark.parametrize("options", [{}, {"overlap": False}, {"check_overlap": True}], ids=str)
def test_each_file_of_a_saver_holds_what_the_loop_had_when_it_was_asked_for(tmp_path, device, options):
    run, wanted = Training(device), []
    with marlin_ckpt.Saver(**options) as saver:
        for number in range(8):
            keep_busy(device)
            run.step()
            wanted.append(copy.deepcopy(run.states()))
            saver.save(run.live(), tmp_path / f"{number}.pt")
        saver.wait()
        assert len(saver.take_reports()) == len(wanted)
    for number, states in enumerate(wanted):
        assert same(torch.load(tmp_path / f"{number}.pt"), states), number
    again = Training(device)
    marlin_ckpt.load(tmp_path / "7.pt", into=again.live())
    assert same(again.states(), wanted[-1])
