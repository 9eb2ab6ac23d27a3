"""How much longer training steps take during a save, beside a raw write of the same size."""

from __future__ import annotations

import ctypes
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from benchmarks import behind, loops
from benchmarks.files import buffer, empty, write_raw
from benchmarks.loops import Loop
from benchmarks.report import Row, Setting
from benchmarks.states import size_bytes, size_text

_STEPS = 10
_RAW_BYTES = 8 << 20
_COPY = "a copy and a raw write of as much"
_SAVE, _LIMIT, _RAW = "marlin-ckpt save", "copy and write", "write"  # names of threads


class _Steps:
    """The times of single steps, by what ran beside them."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {_SAVE: [], _LIMIT: [], "": []}

    def block(self, loop: Loop) -> None:
        """Does a few."""
        for _ in range(_STEPS):
            began, beside = time.perf_counter(), _beside_us()
            loop.forward()
            loop.step()
            if beside == _beside_us() and beside in self.times:  # else it was both
                self.times[beside].append(time.perf_counter() - began)


def _beside_us() -> str:
    names = {thread.name for thread in threading.enumerate()}
    return next((name for name in (_SAVE, _LIMIT, _RAW) if name in names), "")


@contextmanager
def _beside(name: str, work: Callable[[], None]) -> Any:
    thread = threading.Thread(target=work, name=name)
    thread.start()
    yield
    thread.join()


def slowing(setting: Setting) -> list[Row]:
    """Steps with a save in every ten of them, with what no save can do without, and with nothing."""
    rows = [row for make in loops.both(setting.sizes.medium) for row in _blocks(make(), setting)]
    return rows + _single(loops.short(setting.sizes.medium), setting)


def _blocks(loop: Loop, setting: Setting) -> list[Row]:
    """Ten steps of a loop whose steps take about as long as a save, or longer."""
    blocks, _ = _taken(loop, setting)
    mine, raw, limit, alone = (statistics.median(times) for times in zip(*blocks, strict=True))
    what, rounds = f"{_STEPS} steps of {loop.name}, saving {size_text(_size(loop))}", setting.rounds
    return [
        Row("slow", what, "a raw write of as much beside them", mine, raw, rounds, 1.035),
        Row("slow", what, f"{_COPY} beside them", mine, limit, rounds),
        Row("slow", what, "no save", mine, alone, rounds),
    ]


def _single(loop: Loop, setting: Setting) -> list[Row]:
    """Single steps of a loop, those of which the whole falls into a save."""
    _, steps = _taken(loop, setting)
    during, beside, alone = (statistics.median(times) for times in steps.times.values())
    what, count = f"a step of {loop.name}, while {size_text(_size(loop))} is saved", len(steps.times[_SAVE])
    return [
        Row("slow", what, f"a step beside {_COPY}", during, beside, count, 0.9),
        Row("slow", what, "a step", during, alone, count),
    ]


def _size(loop: Loop) -> int:
    return size_bytes(loop.checkpoint())


def _taken(loop: Loop, setting: Setting) -> tuple[list[tuple[float, ...]], _Steps]:
    """Seconds of ten steps beside a save, a write, a copy and a write, and nothing; those of each step."""
    directory, size = setting.directory, _size(loop)
    saver, memory, steps = behind.ours(loop, directory / "a"), buffer(_RAW_BYTES), _Steps()
    pairs = loops.aside(loop)

    def timed(begin: Callable[[], object], beside: AbstractContextManager[object] | None = None) -> float:
        with beside or nullcontext():
            began = time.perf_counter()
            begin()
            steps.block(loop)
            return time.perf_counter() - began

    def saved() -> float:
        took_s = timed(lambda: saver.save(loop.checkpoint()))
        saver.finish()
        return took_s

    def write() -> None:
        write_raw(directory / "raw", memory, size)

    def copy_and_write() -> None:
        for target, source in pairs:
            ctypes.memmove(target.data_ptr(), source.data_ptr(), source.nbytes)
        write()

    blocks: list[tuple[float, ...]] = []
    saved()  # takes fresh memory, and does not count
    steps.times[_SAVE].clear()
    for _ in range(setting.rounds):
        limit_s = timed(lambda: None, _beside(_LIMIT, copy_and_write))
        blocks.append((saved(), timed(lambda: None, _beside(_RAW, write)), limit_s, timed(lambda: None)))
        empty(directory)
    saver.close()
    return blocks, steps
