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
    """Two loops with a save in every ten steps, with what no save can do without, and with nothing."""
    return [row for make in loops.both(setting.sizes.medium) for row in _slow_down(make(), setting)]


def _slow_down(loop: Loop, setting: Setting) -> list[Row]:
    directory, size = setting.directory, size_bytes(loop.checkpoint())
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

    rounds = setting.rounds
    blocks: list[tuple[float, ...]] = []
    saved()  # takes fresh memory, and does not count
    steps.times[_SAVE].clear()
    for _ in range(rounds):
        limit_s = timed(lambda: None, _beside(_LIMIT, copy_and_write))
        blocks.append((saved(), timed(lambda: None, _beside(_RAW, write)), limit_s, timed(lambda: None)))
        empty(directory)
    saver.close()
    mine, raw, limit, alone = (statistics.median(times) for times in zip(*blocks, strict=True))
    what = f"{_STEPS} steps of {loop.name}, saving {size_text(size)}"
    copy = "a copy and a raw write of as much"
    rows = [
        Row("slow", what, "a raw write of as much beside them", mine, raw, rounds, 1.035),
        Row("slow", what, f"{copy} beside them", mine, limit, rounds),
        Row("slow", what, "no save", mine, alone, rounds),
    ]
    if all(steps.times.values()):
        during, beside, alone = (statistics.median(times) for times in steps.times.values())
        step, count = f"a step of {loop.name} while a save is under way", len(steps.times[_SAVE])
        rows.append(Row("slow", step, f"a step beside {copy}", during, beside, count, 0.9))
        rows.append(Row("slow", step, "a step", during, alone, count))
    return rows
