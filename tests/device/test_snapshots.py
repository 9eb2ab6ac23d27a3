"""An asynchronous save of what is on a device holds it as it was when the save was asked for."""

from __future__ import annotations

import copy

import pytest
import torch

from marlin_ckpt import Checkpoint
from marlin_ckpt.saving.copying import device as copies
from tests.support.async_runs import Gate, checkpointer, same
from tests.support.device_runs import DeviceRun, keep_busy, large


def saved(path) -> torch.Tensor:
    return torch.load(path)["module_interface_state"]["weight"]


def of(weight: torch.Tensor) -> Checkpoint:
    return Checkpoint({"weight": weight}, {}, {})


@pytest.mark.parametrize("kind", ["default", "foreach", "fused", "capturable"])
@pytest.mark.parametrize("options", [{}, {"overlap": False}, {"check_overlap": True}], ids=str)
def test_each_file_holds_what_a_device_held_when_its_save_was_asked_for(tmp_path, device, kind, options):
    if kind == "capturable" and device.type == "cpu":
        pytest.skip("torch refuses that")
    run, wanted = DeviceRun(device, **({} if kind == "default" else {kind: True})), {}
    with checkpointer(tmp_path, **options) as one:
        one.register(run.optimizer)
        for index in range(8):
            run.step()
            wanted[index] = copy.deepcopy(run.checkpoint().payload())
            one.save(run.checkpoint(), index)
    for index, payload in wanted.items():
        found = torch.load(tmp_path / f"model_{index}.pt")
        for part, state in payload.items():
            assert same(found[part], state), (index, part)


@pytest.mark.parametrize("is_registered", [True, False])
def test_the_copy_comes_after_what_the_device_was_given_to_do_before(tmp_path, device, is_registered):
    weight = large(device)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with checkpointer(tmp_path) as one:
        if is_registered:
            one.register(optimizer)
        keep_busy(device)
        with torch.no_grad():
            weight.add_(1)
        one.save(of(weight), 0)
    assert bool((saved(tmp_path / "model_0.pt") == 1).all())


def test_the_copy_comes_after_the_work_of_the_stream_that_the_caller_is_on(tmp_path, cuda):
    weight, stream = large(cuda), torch.cuda.Stream()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    torch.cuda.synchronize()
    with checkpointer(tmp_path) as one:
        one.register(optimizer)
        with torch.cuda.stream(stream):
            keep_busy(cuda)
            with torch.no_grad():
                weight.add_(1)
            one.save(of(weight), 0)
    assert bool((saved(tmp_path / "model_0.pt") == 1).all())


def test_a_step_is_done_after_the_copy_though_the_caller_does_not_wait(tmp_path, device):
    weight = large(device, 1.0)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with checkpointer(tmp_path) as one:
        one.register(optimizer)
        for index in range(10):
            value = float(weight.detach()[0])
            weight.grad = torch.ones_like(weight)
            one.save(of(weight), index)
            optimizer.step()
            one.wait()
            assert bool((saved(tmp_path / f"model_{index}.pt") == value).all())


def test_a_step_on_another_stream_than_the_saves_is_done_after_the_copy(tmp_path, cuda):
    weight, stream = large(cuda, 1.0), torch.cuda.Stream()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with checkpointer(tmp_path) as one:
        one.register(optimizer)
        for index in range(5):
            value = float(weight.detach()[0])
            weight.grad = torch.ones_like(weight)
            torch.cuda.synchronize()
            one.save(of(weight), index)
            with torch.cuda.stream(stream):
                optimizer.step()
            stream.synchronize()
            one.wait()
            assert bool((saved(tmp_path / f"model_{index}.pt") == value).all())


def test_memory_that_is_freed_right_after_a_save_is_not_used_again_before_the_copy(tmp_path, device):
    weight = large(device, 3.0)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with checkpointer(tmp_path) as one:
        one.register(optimizer)
        keep_busy(device)
        one.save(of(weight), 0)
        del weight, optimizer
        others = [large(device, 9.0) for _ in range(4)]
        one.wait()
        assert len(others) == 4
    assert bool((saved(tmp_path / "model_0.pt") == 3).all())


def test_memory_that_cannot_be_pinned_takes_the_copy_as_well(tmp_path, device, monkeypatch):
    monkeypatch.setattr(copies, "pin", lambda *_: False)
    run, wanted = DeviceRun(device, fused=True), {}
    with checkpointer(tmp_path) as one:
        one.register(run.optimizer)
        for index in range(4):
            run.step()
            wanted[index] = copy.deepcopy(run.checkpoint().payload())
            one.save(run.checkpoint(), index)
    for index, payload in wanted.items():
        found = torch.load(tmp_path / f"model_{index}.pt")
        assert all(same(found[part], state) for part, state in payload.items()), index


def test_an_optimizer_of_tensors_here_and_on_a_device_is_saved_as_it_was_before_its_step(tmp_path, device):
    weights = [large(device, 1.0), torch.nn.Parameter(torch.ones(1 << 16))]
    optimizer = torch.optim.Adam(weights, lr=0.1, foreach=False)
    wanted = {}
    with checkpointer(tmp_path) as one:
        one.register(optimizer)
        for index in range(4):
            for weight in weights:
                weight.grad = torch.ones_like(weight)
            state = {"there": weights[0], "part": weights[0].detach()[5:9], "here": weights[1]}
            checkpoint = Checkpoint(state, {"optimizer": optimizer.state_dict()}, {})
            wanted[index] = copy.deepcopy(checkpoint.payload())
            one.save(checkpoint, index)
            optimizer.step()
    for index, payload in wanted.items():
        found = torch.load(tmp_path / f"model_{index}.pt")
        assert all(same(found[part], state) for part, state in payload.items()), index


def test_a_change_on_the_device_outside_of_a_step_gives_the_save_up(tmp_path, cuda, caplog):
    weight = large(cuda)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with checkpointer(tmp_path) as one:
        one.register(optimizer)
        one.save(of(weight), 0)
        with torch.no_grad():
            weight.add_(1)
    assert not (tmp_path / "model_0.pt").exists()
    assert "changed outside of an optimizer's step" in caplog.text


def test_parameters_of_a_step_that_a_cuda_graph_may_replay_are_copied_at_once(tmp_path, cuda):
    weight = large(cuda)
    with checkpointer(tmp_path) as one:
        one.register(torch.optim.AdamW([weight], capturable=True))
        one.save(of(weight), 0)
        weight.data.add_(1)  # as a replay does: no hook, no version
    assert not bool(saved(tmp_path / "model_0.pt").any())


class Captured:
    """A module whose training step is a CUDA graph."""

    def __init__(self, cuda: torch.device) -> None:
        torch.manual_seed(0)
        self.module = torch.nn.Linear(1024, 1024).to(cuda)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.1, capturable=True)
        self.batch = torch.randn(16, 1024, device=cuda)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.module(self.batch).square().mean().backward()
        self.optimizer.step()

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.module.state_dict(), {"optimizer": self.optimizer.state_dict()}, {})


def test_the_replay_of_a_graph_right_after_a_save_is_not_in_its_file(tmp_path, cuda):
    captured, wanted = Captured(cuda), {}
    with checkpointer(tmp_path) as one:
        one.register(captured.optimizer)
        with torch.cuda.graph(captured.graph):
            captured.step()
        for index in range(5):
            captured.graph.replay()
            wanted[index] = copy.deepcopy(captured.checkpoint().payload())
            one.save(captured.checkpoint(), index)
            captured.graph.replay()
    assert not same(wanted[0]["module_interface_state"], wanted[1]["module_interface_state"])
    for index, payload in wanted.items():
        found = torch.load(tmp_path / f"model_{index}.pt")
        assert all(same(found[part], state) for part, state in payload.items()), index


@pytest.mark.parametrize("is_waited_for", [False, True], ids=["copied before", "copied meanwhile"])
def test_a_graph_is_captured_while_another_module_is_saved(tmp_path, cuda, monkeypatch, is_waited_for):
    captured, weight = Captured(cuda), large(cuda, 1.0)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    gate = Gate(monkeypatch)
    with checkpointer(tmp_path) as one:
        one.register(optimizer, captured.optimizer)
        if is_waited_for:
            keep_busy(cuda)
        try:
            one.save(of(weight), 0)
            if not is_waited_for:
                assert gate.reached.wait(60)
            with torch.cuda.graph(captured.graph):
                captured.step()
        finally:
            gate.opened.set()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        captured.graph.replay()
        torch.cuda.synchronize()
    assert bool((saved(tmp_path / "model_0.pt") == 1).all())
