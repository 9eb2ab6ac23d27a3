"""How much longer steps take for a save among them, beside the disk's own work."""

from __future__ import annotations

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


class _Steps:
    """The times of single steps, with a save under way and without."""

    def __init__(self) -> None:
        self.times: dict[bool, list[float]] = {True: [], False: []}

    def block(self, loop: Loop, *, count: bool) -> None:
        """Does a few, and counts their times or not."""
        for _ in range(_STEPS):
            began, is_busy = time.perf_counter(), _is_saving()
            loop.forward()
            loop.step()
            if count and is_busy == _is_saving():  # else it was both
                self.times[is_busy].append(time.perf_counter() - began)


def _is_saving() -> bool:
    return any(thread.name == "marlin-ckpt save" for thread in threading.enumerate())


@contextmanager
def _beside(work: Callable[[], None]) -> Any:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


def slowing(setting: Setting) -> list[Row]:
    """Two loops with a save in every ten steps, with a raw write in its place, and with nothing."""
    return [row for make in loops.both(setting.sizes.medium) for row in _slow_down(make(), setting)]


def _slow_down(loop: Loop, setting: Setting) -> list[Row]:
    directory, size = setting.directory, size_bytes(loop.checkpoint())
    saver, memory, steps = behind.ours(loop, directory / "a"), buffer(_RAW_BYTES), _Steps()

    def timed(begin: Callable[[], object], beside: AbstractContextManager[object] | None = None) -> float:
        with beside or nullcontext():
            began = time.perf_counter()
            begin()
            steps.block(loop, count=beside is None)
            return time.perf_counter() - began

    def saved() -> float:
        took_s = timed(lambda: saver.save(loop.checkpoint()))
        saver.finish()
        saver.hidden_s()
        return took_s

    def raw() -> float:
        return timed(lambda: None, _beside(lambda: write_raw(directory / "raw", memory, size)))

    rounds = setting.rounds
    blocks: list[tuple[float, float, float]] = []
    saved()  # takes fresh memory, and does not count
    for _ in range(rounds):
        blocks.append((saved(), raw(), timed(lambda: None)))
        empty(directory)
    saver.close()
    mine, beside, alone = (statistics.median(times) for times in zip(*blocks, strict=True))
    what = f"{_STEPS} steps of {loop.name}, saving {size_text(size)}"
    rows = [
        Row("slow", what, "a raw write of as much beside them", mine, beside, rounds, 1.035),
        Row("slow", what, "no save", mine, alone, rounds),
    ]
    if steps.times[True]:
        during, alone = (statistics.median(steps.times[is_busy]) for is_busy in (True, False))
        step = f"a step of {loop.name} while a save is under way"
        rows.append(Row("slow", step, "a step", during, alone, len(steps.times[True]), 1.11))
    return rows
