"""The memory that saves of what is on a device take, there and here."""

from __future__ import annotations

import ctypes
import gc
import re
from pathlib import Path

import pytest
import torch

from marlin_ckpt.saving.copying import device as copies
from marlin_ckpt.saving.copying.arena import Arena
from tests.support.async_runs import checkpointer
from tests.support.device_runs import DeviceRun, fresh


def resident_bytes() -> int:
    return int(re.findall(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024


def taken(device: torch.device) -> dict[str, int]:
    """What is in use between two steps."""
    gc.collect()
    if device.type != "cuda":
        return {}
    torch.cuda.synchronize()
    host = getattr(torch.cuda, "host_memory_stats", dict)()
    return {
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        **{key: host[key] for key in ("allocated_bytes.current", "active_bytes.current") if key in host},
    }


@pytest.mark.parametrize("is_async", [True, False])
def test_many_saves_take_no_more_memory_of_the_device_or_of_the_process(tmp_path, device, is_async):
    run = DeviceRun(device)
    with checkpointer(tmp_path, async_save=is_async) as one:
        one.register(run.optimizer)
        for number in range(40):
            if number == 10:
                one.wait()
                before, resident = taken(device), resident_bytes()
            run.step()
            one.save(run.checkpoint(), 0)
        one.wait()
        assert taken(device) == before
        assert resident_bytes() - resident < 60 << 20  # of 30 states of 50 MB


@pytest.mark.parametrize("is_async", [True, False])
def test_a_save_takes_no_memory_of_the_device(tmp_path, cuda, is_async):
    run = DeviceRun(cuda)
    run.step()
    with checkpointer(tmp_path, async_save=is_async) as one:
        one.register(run.optimizer)
        before = taken(cuda)["allocated"]
        torch.cuda.reset_peak_memory_stats()
        one.save(run.checkpoint(), 0)
        one.wait()
        assert torch.cuda.max_memory_allocated() == before


def test_the_memory_that_a_device_copies_to_is_pinned_and_is_not_after_it_is_given_back(cuda):
    torch.ones(1, device=cuda)
    arena = Arena()
    for size in (1 << 20, 100, 3 << 20):
        room = arena.room(size + 5, is_pinned=True)
        whole = torch.frombuffer(room, dtype=torch.uint8)
        assert whole.is_pinned()
        assert whole[size:].is_pinned()
    arena.free()
    assert not whole.is_pinned()


def test_saves_copy_into_memory_that_the_first_of_them_has_pinned(tmp_path, cuda, monkeypatch):
    run, pin, pinned = DeviceRun(cuda), copies.pin, []
    monkeypatch.setattr(copies, "pin", lambda *given: pinned.append((given, pin(*given))) or pinned[-1][1])
    run.step()
    with checkpointer(tmp_path) as one:
        one.register(run.optimizer)
        for index in range(3):
            one.save(run.checkpoint(), index)
            run.step()
        one.wait()
        (((address, size_bytes), was_pinned),) = pinned
        assert was_pinned
        assert size_bytes >= sum(one.numel() * 4 for one in run.module.parameters()) * 3
        memory = (ctypes.c_char * size_bytes).from_address(address)
        assert torch.frombuffer(memory, dtype=torch.uint8).is_pinned()


def test_memory_that_cannot_be_pinned_or_unpinned_leaves_no_error_to_the_next_kernel(cuda):
    arena = Arena()
    room = arena.room(1 << 20, is_pinned=True)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    for _ in range(2):
        assert not copies.pin(address, 1 << 20)  # it is already
        assert float(torch.full((4,), 2.0, device=cuda).sum()) == 8
    elsewhere = ctypes.create_string_buffer(1 << 16)
    copies.unpin(ctypes.addressof(elsewhere))  # it is not
    assert float(torch.full((4,), 3.0, device=cuda).sum()) == 12


_WITHOUT_END = """
import sys, torch
from pathlib import Path
from tests.support.async_runs import checkpointer
from tests.support.device_runs import DeviceRun
run = DeviceRun(torch.device(sys.argv[2]))
one = checkpointer(Path(sys.argv[1]))
one.register(run.optimizer)
for index in range(3):
    run.step()
    one.save(run.checkpoint(), index)
"""


def test_a_process_that_ends_while_it_saves_ends_well_and_its_files_are_whole(tmp_path, device):
    ended = fresh("-c", _WITHOUT_END, str(tmp_path), device.type)
    told = [line for line in ended.stderr.splitlines() if not line.startswith("The program ends once")]
    assert (ended.returncode, told) == (0, [])
    for index in range(3):
        assert torch.load(tmp_path / f"model_{index}.pt")["trainer_state"]["optimizer"]["state"]
