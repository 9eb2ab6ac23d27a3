"""Loads into modules, optimizers and tensors on a device."""

from __future__ import annotations

import copy

import pytest
import torch

from marlin_ckpt import Checkpoint
from tests.support.async_runs import checkpointer, same
from tests.support.device_runs import DeviceRun

KINDS = ["default", "foreach", "fused", "capturable"]


def made(device: torch.device, kind: str = "default") -> DeviceRun:
    if kind == "capturable" and device.type == "cpu":
        pytest.skip("torch refuses that")
    return DeviceRun(device, **({} if kind == "default" else {kind: True}))


def continued(run: DeviceRun) -> dict:
    torch.manual_seed(7)
    for _ in range(3):
        run.step()
    return copy.deepcopy(run.checkpoint().payload())


def places(run: DeviceRun) -> list[tuple[str, str, torch.dtype]]:
    return [
        (name, one.device.type, one.dtype)
        for state in run.optimizer.state.values()
        for name, one in state.items()
    ]


def addresses(run: DeviceRun) -> list[int]:
    return [one.data_ptr() for one in run.module.state_dict().values()]


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("has_stepped", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_module_and_its_optimizer_go_on_as_those_saved(tmp_path, device, kind, has_stepped, is_async):
    run = made(device, kind)
    for _ in range(3):
        run.step()
    with checkpointer(tmp_path, async_save=is_async) as one:
        one.register(run.optimizer)
        one.save(run.checkpoint(), 0)
        other = made(device, kind)
        if has_stepped:
            continued(other)
        before = addresses(other)
        one.load(into=Checkpoint(other.module, {"optimizer": other.optimizer}))
    assert addresses(other) == before
    assert places(other) == places(run)
    assert same(other.checkpoint().payload(), run.checkpoint().payload())
    assert same(continued(other), continued(run))


def test_a_load_is_to_the_cpu_and_fits_a_module_that_is_moved_before_or_after(tmp_path, device):
    run = made(device)
    run.step()
    with checkpointer(tmp_path) as one:
        one.save(run.checkpoint(), 0)
        state = one.load().module_interface_state
    assert {value.device.type for value in state.values()} == {"cpu"}
    before, after = made(device).module, copy.deepcopy(run.module).cpu()
    torch.nn.init.zeros_(after[0].weight)
    before.load_state_dict(state)
    after.load_state_dict(state)
    for module in (before, after.to(device)):
        assert same(module.state_dict(), run.module.state_dict())


def test_a_module_goes_to_the_device_after_a_load_into_it(tmp_path, device):
    run, module = made(device), torch.nn.Linear(8, 8)
    run.module = torch.nn.Linear(8, 8).to(device)
    with checkpointer(tmp_path) as one:
        one.save(Checkpoint(run.module.state_dict(), {}, {}), 0)
        one.load(into=Checkpoint(module, {}, {}))
    assert same(module.to(device).state_dict(), run.module.state_dict())


def test_a_module_on_the_device_takes_what_was_saved_on_the_cpu(tmp_path, device):
    source, target = torch.nn.Linear(300, 200), torch.nn.Linear(300, 200).to(device)
    with checkpointer(tmp_path) as one:
        one.save(Checkpoint(source.state_dict(), {}, {}), 0)
        one.load(into=Checkpoint(target, {}, {}))
    assert target.weight.device.type == device.type
    assert torch.equal(target.weight.cpu(), source.weight)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8, torch.bool]
)
def test_live_tensors_that_are_tied_transposed_or_empty_are_filled_in_place(tmp_path, device, dtype):
    def tensors() -> dict[str, torch.Tensor]:
        whole = torch.randn(12, 8, device=device).to(dtype)
        return {"whole": whole, "tied": whole, "turned": whole.t(), "rows": whole[2:5], "none": whole[:0]}

    saved, live = tensors(), tensors()
    before = {name: one.data_ptr() for name, one in live.items()}
    with checkpointer(tmp_path) as one:
        one.save(Checkpoint(saved, {}, {}), 0)
        one.load(into=Checkpoint(live, {}, {}))
    assert {name: one.data_ptr() for name, one in live.items()} == before
    for name, one in live.items():
        assert torch.equal(one.float(), saved[name].float()), name


def test_a_tensor_of_another_dtype_on_the_device_is_converted(tmp_path, device):
    source = torch.randn(100, device=device)
    target = torch.zeros(100, dtype=torch.bfloat16, device=device)
    with checkpointer(tmp_path) as one:
        one.save(Checkpoint({"weight": source}, {}, {}), 0)
        one.load(into=Checkpoint({"weight": target}, {}, {}))
    assert torch.equal(target, source.to(torch.bfloat16))


def test_pinned_tensors_are_filled_in_place_and_stay_pinned(tmp_path, cuda):
    source = torch.randn(1 << 20, device=cuda)
    target = torch.zeros(1 << 20, pin_memory=True)
    with checkpointer(tmp_path) as one:
        one.save(Checkpoint({"weight": source}, {}, {}), 0)
        one.load(into=Checkpoint({"weight": target}, {}, {}))
        one.save(Checkpoint({"weight": target}, {}, {}), 1)
    assert target.is_pinned()
    assert torch.equal(target.to(cuda), source)
    assert torch.equal(torch.load(tmp_path / "model_1.pt")["module_interface_state"]["weight"], target)
