"""Asynchronous saves of what lies on a CUDA device; and, with or without one, of the memory they go to."""

from __future__ import annotations

import copy

import pytest
import torch

from marlin_ckpt import Checkpoint
from marlin_ckpt.saving.copying import device, staging
from tests.support.async_runs import Run, checkpointer, same

_needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


class _Runtime:
    """What is asked of CUDA about memory of the process."""

    def __init__(self, code: int) -> None:
        self.calls: list[str] = []
        self._code = code

    def cudaHostRegister(self, _address: int, size_bytes: int, _flags: int) -> int:
        self.calls.append(f"pin {size_bytes}")
        return self._code

    def cudaHostUnregister(self, _address: int) -> int:
        self.calls.append("unpin")
        return 0


def test_memory_is_pinned_once_and_unpinned_before_it_is_given_back(monkeypatch):
    runtime = _Runtime(0)
    monkeypatch.setattr(device, "_runtime", lambda: runtime)
    arena = staging.Arena()
    for size in (4096, 100, 8192):
        arena.room(size, is_pinned=True)
    arena.free()
    arena.free()
    assert runtime.calls == ["pin 4096", "unpin", "pin 8192", "unpin"]


def test_memory_of_an_arena_that_is_dropped_is_unpinned(monkeypatch):
    runtime = _Runtime(0)
    monkeypatch.setattr(device, "_runtime", lambda: runtime)
    arena = staging.Arena()
    arena.room(4096, is_pinned=True)
    del arena
    assert runtime.calls == ["pin 4096", "unpin"]


def test_memory_that_cannot_be_pinned_is_used_as_it_is(monkeypatch):
    runtime = _Runtime(2)
    monkeypatch.setattr(device, "_runtime", lambda: runtime)
    arena = staging.Arena()
    assert len(arena.room(4096, is_pinned=True)) == 4096
    arena.free()
    assert runtime.calls == ["pin 4096"]


def test_what_lies_on_no_device_asks_nothing_of_cuda(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "_runtime", lambda: pytest.fail("asked"))
    run = Run()
    with checkpointer(tmp_path) as one:
        one.register(run.optimizer)
        one.save(run.checkpoint(), 0)


def _on_cuda() -> Run:
    run = Run()
    run.module = torch.nn.Sequential(torch.nn.Linear(2048, 2048), torch.nn.BatchNorm1d(2048)).cuda()
    run.optimizer = torch.optim.AdamW(run.module.parameters(), lr=0.1)
    run.forward = lambda: run.module(torch.randn(32, 2048, device="cuda")).square().sum().backward()
    return run


@_needs_cuda
@pytest.mark.parametrize("overlap", [True, False])
def test_each_file_holds_what_a_device_held_when_its_save_was_asked_for(tmp_path, overlap):
    run, wanted = _on_cuda(), {}
    with checkpointer(tmp_path, overlap=overlap) as one:
        one.register(run.optimizer)
        for index in range(20):
            run.step()
            wanted[index] = copy.deepcopy(run.checkpoint().payload())
            one.save(run.checkpoint(), index)
    for index, payload in wanted.items():
        assert same(torch.load(tmp_path / f"model_{index}.pt", map_location="cuda"), payload), index


@_needs_cuda
def test_the_copy_comes_after_what_the_device_was_given_to_do_before(tmp_path):
    weight = torch.nn.Parameter(torch.zeros(1 << 24, device="cuda"))
    with checkpointer(tmp_path) as one:
        one.register(torch.optim.SGD([weight], lr=1.0))
        torch.cuda._sleep(200_000_000)
        with torch.no_grad():
            weight.add_(1)
        one.save(Checkpoint({"weight": weight}, {}, {}), 0)
    found = torch.load(tmp_path / "model_0.pt")["module_interface_state"]["weight"]
    assert bool((found == 1).all())


@_needs_cuda
def test_a_step_is_done_after_the_copy_though_the_caller_does_not_wait(tmp_path):
    weight = torch.nn.Parameter(torch.ones(1 << 26, device="cuda"))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with checkpointer(tmp_path) as one:
        one.register(optimizer)
        for index in range(10):
            value = float(weight[0])
            weight.grad = torch.ones_like(weight)
            one.save(Checkpoint({"weight": weight}, {}, {}), index)
            optimizer.step()
            one.wait()
            found = torch.load(tmp_path / f"model_{index}.pt")["module_interface_state"]["weight"]
            assert bool((found == value).all())


@_needs_cuda
def test_a_change_on_the_device_outside_of_a_step_gives_the_save_up(tmp_path, caplog):
    weight = torch.nn.Parameter(torch.zeros(1 << 24, device="cuda"))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with checkpointer(tmp_path) as one:
        one.register(optimizer)
        path = one.save(Checkpoint({"weight": weight}, {}, {}), 0)
        with torch.no_grad():
            weight.add_(1)
    assert not (tmp_path / "model_0.pt").exists(), path
    assert "changed outside of an optimizer's step" in caplog.text


@_needs_cuda
def test_parameters_of_a_step_that_a_cuda_graph_may_replay_are_copied_at_once(tmp_path):
    weight = torch.nn.Parameter(torch.zeros(1 << 24, device="cuda"))
    with checkpointer(tmp_path) as one:
        one.register(torch.optim.AdamW([weight], capturable=True))
        one.save(Checkpoint({"weight": weight}, {}, {}), 0)
        weight.data.add_(1)  # as a replay does: no hook, no version
    found = torch.load(tmp_path / "model_0.pt")["module_interface_state"]["weight"]
    assert not bool(found.any())
