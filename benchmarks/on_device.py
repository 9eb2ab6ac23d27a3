"""How long saves hold up a training loop on a CUDA device: in the call, before the next step, and in all."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import behind, interleaved, loops
from benchmarks.behind import Saver
from benchmarks.files import empty
from benchmarks.loops import Loop
from benchmarks.report import Row, Setting, amount
from benchmarks.stalling import bound, stall_s
from benchmarks.states import flat, size_bytes, size_text

_TINY = 100  # as in `loops`
_STEPS = 40  # of a loop: it then takes longer than the copy of the state
_OURS, _AT_ONCE, _IN_LIGHTNING = "ours", "at once", "in Lightning"
_COPY, _TORCH, _DURABLE = "copy", "torch", "durable"
_Call = Callable[[], float]


def on_device(setting: Setting) -> list[Row]:
    """What asynchronous saves of what is on a CUDA device cost, beside those of others and a bare copy."""
    if not torch.cuda.is_available():
        setting.leave_out("there is no CUDA device: saves of what is on one are left out")
        return []
    return measured(torch.device("cuda"), setting)


def measured(device: torch.device, setting: Setting) -> list[Row]:
    """The rows of a device, which may be the CPU to see whether all of it runs."""
    width, layers = (4224, 7) if setting.sizes.medium.width > _TINY else (32, 2)
    loop, directory = loops.wide(width, layers, device), setting.directory
    size = size_bytes(loop.checkpoint())
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    with behind.others(directory, setting.leave_out, device) as peers:
        savers = {
            _OURS: behind.ours(loop, directory / "a"),
            _AT_ONCE: behind.ours(loop, directory / "b", overlap=False),
            **peers,
        }
        if behind.ASYNC_CHECKPOINT_IO in peers:
            savers[_IN_LIGHTNING] = behind.ours_in_lightning(directory / "c")
        for name, saver in savers.items():
            first[name] = stall_s(loop, saver, is_long=True)
            setting.tell(f"{name}, the first time: {amount(first[name], 's')}")
            empty(directory)
        calls = _calls(loop, savers, directory)

        def note(name: str, call: _Call) -> Callable[[], None]:
            def measure() -> None:
                times.setdefault(name, []).append(call())
                setting.tell(f"{name}: {amount(times[name][-1], 's')}")

            return measure

        def before() -> None:
            empty(directory)
            loop.wait()

        interleaved.medians({name: note(name, call) for name, call in calls.items()}, setting.rounds, before)
        for name in savers.keys() - peers.keys():
            savers[name].close()
    empty(directory)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    setting.tell(f"one copy of {size_text(size)}: {size / medians[_COPY] / 1e9:.1f} GB/s")
    return _rows(size_text(size), list(peers), medians, first[_OURS], setting.rounds)


def _calls(loop: Loop, savers: dict[str, Saver], directory: Path) -> dict[str, _Call]:
    """What is timed, by name; each returns its time in seconds."""

    def stalls(saver: Saver) -> _Call:
        return lambda: stall_s(loop, saver, is_long=True)

    def steps(saver: Saver | None) -> _Call:
        return lambda: _loop_s(loop, saver)

    copy, save = _copy(loop), savers[_OURS]
    return {
        **{name: stalls(one) for name, one in savers.items()},
        **{_steps_of(name): steps(one) for name, one in savers.items() if name != _IN_LIGHTNING},
        _steps_of(""): steps(None),
        _COPY: lambda: _seconds(loop, copy),
        _TORCH: lambda: _seconds(loop, lambda: _torch_save(loop, directory / "t.pt")),
        _DURABLE: lambda: _durable_s(loop, save),
    }


def _steps_of(name: str) -> str:
    return f"{_STEPS} steps and a save, {name}" if name else f"{_STEPS} steps"


def _rows(state: str, peers: list[str], medians: dict[str, float], first_s: float, rounds: int) -> list[Row]:
    what = f"stall of saving {state} on a CUDA device"
    pinned, plain = "one warm copy into pinned memory", "torch.save + fsync"
    found = [
        (what, pinned, _OURS, _COPY, 0.25),
        (what, plain, _OURS, _TORCH, None),
        *((what, name, _OURS, name, bound(name)) for name in peers),
    ]
    if behind.ASYNC_CHECKPOINT_IO in peers:
        name = behind.ASYNC_CHECKPOINT_IO
        found.append((f"{what} in Lightning", name, _IN_LIGHTNING, name, 0.33))
    found.append((f"{what}, overlap: false", pinned, _AT_ONCE, _COPY, 1.25))
    loop, ours = f"{_STEPS} steps on a CUDA device with one save of {state}", _steps_of(_OURS)
    found.append((loop, "without the save", ours, _steps_of(""), None))
    found.append((loop, "ours, overlap: false", ours, _steps_of(_AT_ONCE), None))
    found += [(loop, name, ours, _steps_of(name), None) for name in peers]
    durable = f"saving {state} on a CUDA device in the background until it is durable"
    found.append((durable, plain, _DURABLE, _TORCH, None))
    rows = [
        Row("device", what, against, medians[ours], medians[other], rounds, most)
        for what, against, ours, other, most in found
    ]
    return [*rows, Row("device", f"{what}, the first time", pinned, first_s, medians[_COPY], 1)]


def _seconds(loop: Loop, call: Callable[[], object]) -> float:
    loop.wait()
    began = time.perf_counter()
    call()
    loop.wait()
    return time.perf_counter() - began


def _loop_s(loop: Loop, saver: Saver | None) -> float:
    """How long some steps take until the device is done with them, with a save after the first.

    In this a copy counts that only the device waits for, and not the loop.
    """
    loop.step()
    loop.wait()
    began = time.perf_counter()
    for number in range(_STEPS):
        loop.forward()
        if saver is None:
            loop.step()
            continue
        with saver.around_step():
            loop.step()
        if not number:
            saver.save(loop.checkpoint())
    loop.wait()
    loop_s = time.perf_counter() - began
    if saver is not None:
        saver.finish()
    return loop_s


def _durable_s(loop: Loop, saver: Saver) -> float:
    def save() -> None:
        saver.save(loop.checkpoint())
        saver.finish()

    return _seconds(loop, save)


def _copy(loop: Loop) -> Callable[[], None]:
    """Copies the state into pinned memory that is there, all of it at once."""
    tensors = [tensor for _, tensor in flat(loop.checkpoint().payload())]
    is_pinned = loop.device.type == "cuda"
    pairs = [(torch.empty_like(one, device="cpu", pin_memory=is_pinned), one) for one in tensors]

    def copy() -> None:
        for target, source in pairs:
            target.copy_(source, non_blocking=True)

    return copy


def _torch_save(loop: Loop, path: Path) -> None:
    with open(path, "wb") as file:
        torch.save(loop.checkpoint().payload(), file)
        file.flush()
        os.fsync(file.fileno())
