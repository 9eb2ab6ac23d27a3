"""Copies from CUDA devices, as far as they need none; tests/device/ has what does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from marlin_ckpt.saving.copying import device, snapshot
from marlin_ckpt.saving.copying.arena import Arena
from marlin_ckpt.saving.copying.awaited import Awaited
from tests.support.async_runs import Run, checkpointer


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
    arena = Arena()
    for size in (4096, 100, 8192):
        arena.room(size, is_pinned=True)
    arena.free()
    arena.free()
    assert runtime.calls == ["pin 4096", "unpin", "pin 8192", "unpin"]


def test_memory_of_an_arena_that_is_dropped_is_unpinned(monkeypatch):
    runtime = _Runtime(0)
    monkeypatch.setattr(device, "_runtime", lambda: runtime)
    arena = Arena()
    arena.room(4096, is_pinned=True)
    del arena
    assert runtime.calls == ["pin 4096", "unpin"]


def test_memory_that_cannot_be_pinned_is_used_as_it_is_and_its_error_ends_with_one_kernel(monkeypatch):
    runtime = _Runtime(2)
    monkeypatch.setattr(device, "_runtime", lambda: runtime)

    def kernel() -> None:
        runtime.calls.append("kernel")
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(device, "_run_a_kernel", kernel)
    arena = Arena()
    assert len(arena.room(4096, is_pinned=True)) == 4096
    arena.free()
    assert runtime.calls == ["pin 4096", "kernel"]


def test_an_interrupted_copy_waits_for_what_a_device_copies_into_the_same_memory(tmp_path, monkeypatch):
    calls = []

    def interrupted(_copies: object) -> None:
        calls.append("interrupted")
        raise KeyboardInterrupt

    class Copies:
        def __init__(self, _copies: object) -> None:
            calls.append("begun")

        def wait(self) -> None:
            calls.append("waited")

    monkeypatch.setattr(snapshot, "DeviceCopies", Copies)
    monkeypatch.setattr(snapshot, "_copy_at_once", interrupted)
    with checkpointer(tmp_path) as one, pytest.raises(KeyboardInterrupt):
        one.save(Run().checkpoint(), 0)
    assert calls == ["begun", "interrupted", "waited"]


def test_a_copy_that_is_given_up_waits_for_its_devices():
    waited = []
    steps = Awaited(is_saving=lambda: True)
    steps._staged.append(SimpleNamespace(device_copies=SimpleNamespace(wait=lambda: waited.append(1))))
    steps.give_up()
    assert (waited, list(steps._staged)) == ([1], [])


def test_what_lies_on_no_device_asks_nothing_of_cuda(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "_runtime", lambda: pytest.fail("asked"))
    run = Run()
    with checkpointer(tmp_path) as one:
        one.register(run.optimizer)
        one.save(run.checkpoint(), 0)


def test_a_step_that_is_recorded_into_a_graph_leaves_the_copy_to_the_next_one(monkeypatch):
    settled = []
    steps = Awaited(is_saving=lambda: True)
    steps._staged.append(SimpleNamespace(before_change=lambda: settled.append("copied")))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for is_captured, expected in ((True, []), (False, ["copied"])):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda one=is_captured: one)
        steps.before_step()
        assert settled == expected
