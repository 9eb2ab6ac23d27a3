"""How long saves hold up a training loop on a CUDA device: in the call, before the next step, and in all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import behind, interleaved, loops
from benchmarks.behind import Saver
from benchmarks.files import empty
from benchmarks.loops import Loop
from benchmarks.report import Row, Setting, amount
from benchmarks.states import flat, size_bytes, size_text

_TINY = 100  # as in `loops`
_STEPS = 40  # of a loop: it then takes longer than the copy of the state


def on_device(setting: Setting) -> list[Row]:
    """The stall of asynchronous saves of what is on a CUDA device, beside a copy of it and `torch.save`."""
    if not torch.cuda.is_available():
        setting.leave_out("there is no CUDA device: saves of what is on one are left out")
        return []
    return measured(torch.device("cuda"), setting)


def measured(device: torch.device, setting: Setting) -> list[Row]:
    """The rows of a device, which may be the CPU to see whether all of it runs."""
    width, layers = (2304, 8) if setting.sizes.medium.width > _TINY else (32, 2)
    loop = loops.wide(width, layers, device)
    state, directory = size_text(size_bytes(loop.checkpoint())), setting.directory
    savers = {
        "ours": behind.ours(loop, directory / "a"),
        "at once": behind.ours(loop, directory / "b", overlap=False),
    }
    stalls: dict[str, list[float]] = {}
    first: dict[str, float] = {}
    for name, saver in savers.items():
        first[name] = _stall_s(loop, saver)
        setting.tell(f"{name}, the first time: {amount(first[name], 's')}")

    def note(name: str, call: Callable[[], float]) -> Callable[[], None]:
        def measure() -> None:
            stalls.setdefault(name, []).append(call())
            setting.tell(f"{name}: {amount(stalls[name][-1], 's')}")

        return measure

    copy, save = _copy(loop), savers["ours"]
    calls = {
        **{name: note(name, lambda one=one: _stall_s(loop, one)) for name, one in savers.items()},  # type: ignore[misc]
        "copy": note("copy", lambda: _seconds(device, copy)),
        "torch": note("torch", lambda: _seconds(device, lambda: _torch_save(loop, directory / "t.pt"))),
        "steps": note("steps", lambda: _loop_s(loop, None)),
        "steps and a save": note("steps and a save", lambda: _loop_s(loop, save)),
        "durable": note("durable", lambda: _durable_s(loop, save)),
    }
    interleaved.medians(calls, setting.rounds, lambda: _synchronize(device))
    for saver in savers.values():
        saver.close()
    empty(directory)
    medians = {name: _median(values[1:]) for name, values in stalls.items()}
    what = f"stall of saving {state} on a CUDA device"
    pinned, plain = "one warm copy into pinned memory", "torch.save + fsync"
    rounds = setting.rounds
    return [
        Row("device", what, pinned, medians["ours"], medians["copy"], rounds),
        Row("device", what, plain, medians["ours"], medians["torch"], rounds),
        Row("device", f"{what}, the first time", pinned, first["ours"], medians["copy"], 1),
        Row("device", f"{what}, overlap: false", pinned, medians["at once"], medians["copy"], rounds),
        Row(
            "device",
            f"{_STEPS} steps on a CUDA device with one save of {state}",
            "without the save",
            medians["steps and a save"],
            medians["steps"],
            rounds,
        ),
        Row(
            "device",
            f"saving {state} on a CUDA device in the background until it is durable",
            plain,
            medians["durable"],
            medians["torch"],
            rounds,
        ),
    ]


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _device(loop: Loop) -> torch.device:
    return next(loop.module.parameters()).device


def _seconds(device: torch.device, call: Callable[[], object]) -> float:
    _synchronize(device)
    began = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - began


def _stall_s(loop: Loop, saver: Saver) -> float:
    """How long the caller waits, who asks for a save when the device has nothing to do, and then steps."""
    loop.forward()
    loop.step()
    checkpoint = loop.checkpoint()
    _synchronize(_device(loop))
    began = time.perf_counter()
    saver.save(checkpoint)
    stall_s = time.perf_counter() - began
    loop.forward()
    loop.step()
    saver.finish()
    return stall_s + saver.hidden_s()


def _loop_s(loop: Loop, saver: Saver | None) -> float:
    """How long a number of steps takes until the device is done with them, with a save after the first."""
    loop.step()
    _synchronize(_device(loop))
    began = time.perf_counter()
    for number in range(_STEPS):
        loop.forward()
        loop.step()
        if saver is not None and not number:
            saver.save(loop.checkpoint())
    _synchronize(_device(loop))
    loop_s = time.perf_counter() - began
    if saver is not None:
        saver.finish()
        saver.hidden_s()
    return loop_s


def _durable_s(loop: Loop, saver: Saver) -> float:
    def save() -> None:
        saver.save(loop.checkpoint())
        saver.finish()

    durable_s = _seconds(_device(loop), save)
    saver.hidden_s()
    return durable_s


def _copy(loop: Loop) -> Callable[[], None]:
    """Copies the state into pinned memory that is there, all of it at once."""
    tensors = [tensor for _, tensor in flat(loop.checkpoint().payload())]
    is_pinned = _device(loop).type == "cuda"
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
