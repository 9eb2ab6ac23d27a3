"""Times what two ranks do with a sharded state, beside stock `torch.distributed.checkpoint` and the disk."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.crew import Crew, crew
from benchmarks.files import buffer, empty, write_raw
from benchmarks.interleaved import medians
from benchmarks.report import Row, Setting
from benchmarks.saving import has_room
from benchmarks.sharded_loop import sharded_loop
from benchmarks.sharded_state import cache, forget_cached, rank
from benchmarks.states import size_text

_WORLD = 2
_STOCK, _RAW = "stock DCP", "raw, by two processes"
_RAW_MIB = (8, 64)  # in one write; the better one is the limit
_MEMORY_MIB = 64  # that a rank may take beyond the state
_COPIES = 3  # of the state, on the disk


def ranks(setting: Setting) -> list[Row]:
    """What two ranks take to save, to load, to load otherwise sharded, and what one takes to load all."""
    prepare = rank, setting.sizes.two_ranks, str(setting.directory), _RAW_MIB
    with crew(_WORLD, *prepare) as two:
        size = sum(one.result for one in two.do("size"))
        if not has_room(setting, size * _COPIES):
            return []
        group = _Group(setting, two, f"{_WORLD} ranks", size_text(size))
        rows = group.saves()
        two.do("save ours")
        two.do("save stock")
        sums = group.sums()
        rows += group.loads("load", sums, 0.75, 1.0)
        rows += group.memory()
        two.do("columns")
        rows += group.loads("load by columns what was saved by rows,", sums, 0.6)
    with crew(1, *prepare) as one:
        alone = _Group(setting, one, "one rank", size_text(size))
        rows += alone.loads("loads what two have saved,", sums, None)
    empty(setting.directory)
    return rows + _stalls(setting)


def _stalls(setting: Setting) -> list[Row]:
    """How long asynchronous saves hold up a loop: the rank that waits longest."""
    found: dict[str, list[float]] = {}
    width, layers = setting.sizes.wide
    with crew(_WORLD, sharded_loop, width, layers, str(setting.directory)) as two:
        size = size_text(sum(one.result for one in two.do("size")))
        for _ in range(setting.rounds + 1):
            for command in ("stall ours", "stall stock", "copy"):
                found.setdefault(command, []).append(max(one.result for one in two.do(command)))
            empty(setting.directory)
        two.do("close")
    ours, stock, copy = (statistics.median(times[1:]) for times in found.values())
    what = f"stall of {_WORLD} ranks that save {size} behind a wide perceptron of FSDP2"
    rows = [
        Row("ranks", what, f"{_STOCK}, in a thread", ours, stock, setting.rounds, 0.33),
        Row("ranks", what, "one copy of the rank's state by two threads", ours, copy, setting.rounds, 0.5),
    ]
    for row in rows:
        setting.tell(" | ".join(row.cells()))
    return rows


class _Group:
    """Measurements of one crew."""

    def __init__(self, setting: Setting, ranks: Crew, who: str, size: str) -> None:
        self._setting, self._crew, self._who, self._size = setting, ranks, who, size
        self._is_direct = _is_direct(setting)

    def saves(self) -> list[Row]:
        """Saves, until everything is durable."""
        raws = [f"save raw {mib}" for mib in _RAW_MIB] if self._is_direct else []
        before = partial(empty, self._setting.directory)
        return self._rows(f"{self._who} save {self._size}", "save", raws, before, 0.6, 1.3)

    def loads(self, what: str, sums: list[float], warm: float | None, cold: float | None = None) -> list[Row]:
        """Loads, ours with every checksum compared.

        Args:
            what: is loaded.
            sums: of all that has to come back.
            warm: the most that we may take of stock's time, of what is in the page cache.
            cold: the same of what is not; None: that is not measured.
        """
        for command in ("load ours", "load stock"):
            self._crew.do("forget")
            self._crew.do(command)
            if not all(map(partial(math.isclose, rel_tol=1e-6, abs_tol=1e-6), self.sums(), sums)):
                raise RuntimeError(f"{command}: it has not loaded what was saved")
        self._crew.do(f"save raw {_RAW_MIB[0]}")
        cache(self._setting.directory)
        text = f"{self._who} {what} {self._size}"
        rows = self._rows(f"{text}, warm", "load", ["load raw warm"], lambda: None, warm)
        if cold is not None:
            raws = ["load raw cold"] if self._is_direct else []
            before = partial(forget_cached, self._setting.directory)
            rows += self._rows(f"{text}, cold", "load", raws, before, cold)
        return rows

    def memory(self) -> list[Row]:
        """The memory that a rank takes beyond its state, in the worst of all rounds."""
        rows = []
        for command in ("save", "load"):
            found = [
                one.result
                for _ in range(self._setting.rounds)
                for one in self._crew.do("memory", f"{command} ours")
            ]
            if None in found:
                self._setting.leave_out(
                    "a rank's memory is left out, since this kernel does not forget its peak"
                )
                return []
            what = f"{self._who} {command} {self._size}, memory of a rank beside its state"
            limit = f"the limit of {_MEMORY_MIB} MiB"
            rows.append(Row("ranks", what, limit, max(found), _MEMORY_MIB, self._setting.rounds, 1, "MiB"))
        return rows

    def sums(self) -> list[float]:
        """Values that show whether everything has been loaded, wherever it is."""
        return [sum(each) for each in zip(*(one.result for one in self._crew.do("sums")), strict=True)]

    def _rows(  # noqa: PLR0913, PLR0917
        self,
        what: str,
        command: str,
        raws: Sequence[str],
        before: Callable[[], object],
        bound: float | None,
        of_raw: float | None = None,
    ) -> list[Row]:
        """Ours beside stock's and the system's calls alone, and these beside each other; processor time."""
        used: dict[str, list[float]] = {}

        def do(name: str) -> None:
            used.setdefault(name, []).append(sum(one.cpu_s for one in self._crew.do(name)))

        ours, stock = f"{command} ours", f"{command} stock"
        timings = medians(
            {name: partial(do, name) for name in (ours, stock, *raws)}, self._setting.rounds, before
        )
        times = {name: timing.wall_s for name, timing in timings.items()}
        cpu = {name: statistics.median(values[1:]) for name, values in used.items()}
        row = partial(Row, "ranks", rounds=self._setting.rounds)
        rows = [row(what, _STOCK, times[ours], times[stock], bound=bound)]
        if raws:
            raw = min(times[name] for name in raws)
            rows.append(row(what, _RAW, times[ours], raw, bound=of_raw))
            rows.append(row(f"{what}: {_RAW}", _STOCK, raw, times[stock]))
        rows.append(row(f"{what}, processor time", _STOCK, cpu[ours], cpu[stock]))
        for each in rows:
            self._setting.tell(" | ".join(each.cells()))
        return rows


def _is_direct(setting: Setting) -> bool:
    path = setting.directory / "raw"
    try:
        write_raw(path, buffer(4096), 4096)
    except OSError:
        setting.leave_out("the raw write is left out, since this file system has no O_DIRECT")
        return False
    finally:
        path.unlink(missing_ok=True)
    return True
