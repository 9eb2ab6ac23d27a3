"""Finds the statistics of the module's tensors of checkpoints: in the files, in our cache, or in the data."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from marlin_ckpt import naming
from marlin_ckpt.directory import catalog, own
from marlin_ckpt.errors import BadFileError, MarlinError, UnknownFormatError
from marlin_ckpt.formats import statistics
from marlin_ckpt.formats.statistics import Columns, Statistics
from marlin_ckpt.formats.verdicts import Inspection
from marlin_ckpt.operations import one
from marlin_ckpt.operations.report.sizes import module_tensors
from marlin_ckpt.operations.report.values import Histogram
from marlin_ckpt.operations.selection import MODULE_STATES
from marlin_ckpt.storage.paths import make_directory

OnBytes = Callable[[int], None]
Progress = Callable[[int], AbstractContextManager[OnBytes]]
_MOST_BYTES = 32 << 20  # some 600 checkpoints of 600 tensors
_LARGE = 256 << 20  # bytes of a tensor that is read in pieces, and twice: once for its checksum

Found = Sequence[tuple[str, Inspection]]


@dataclass(slots=True)
class Figures:
    """Statistics of the module's tensors of checkpoints.

    Attributes:
        of: by the name of the checkpoint; of tensors by their names in the module.
        has_read: whether any of them are from the data.
        damaged: checkpoints whose data turned out to be damaged, each with what is wrong.
    """

    of: dict[str, Columns] = field(default_factory=dict)
    has_read: bool = False
    damaged: dict[str, str] = field(default_factory=dict)


def cache_path(directory: str) -> str:
    """Where `add_read` keeps what it has read."""
    return os.path.join(directory, naming.OWN_DIRECTORY, naming.STATISTICS)


def saved(found: Found) -> Figures:
    """The statistics that were saved in files; of others, nothing is read."""
    figures = Figures()
    for name, inspection in found:
        if inspection.manifest is None or inspection.complete is False:
            continue
        with contextlib.suppress(MarlinError):
            if known := one.statistics_of(inspection.entry.path, inspection.entry):
                figures.of[name] = _of_module(known)
    return figures


def _of_module(known: Columns) -> Columns:
    """Those of the module alone, under its names."""
    tops = {name.partition(".")[0] for name in known.names}
    inner = (known.within(f"{state}.") for state in MODULE_STATES if state in tops)
    return next(filter(None, inner), known)


def add_kept(figures: Figures, directory: str, found: Found) -> None:
    """Adds what was read of checkpoints before, and kept.

    Args:
        figures: is added to.
        directory: of the checkpoints.
        found: the checkpoints.
    """
    cache = _read_cache(directory)
    for name, inspection in found:
        if name in figures.of or inspection.complete is False:
            continue
        if (known := _cached(cache.get(name), inspection)) is not None:
            figures.of[name] = known
            figures.has_read = True


def add_read(figures: Figures, directory: str | None, found: Found, progress: Progress) -> None:
    """Reads the tensors of checkpoints that have no statistics yet.

    Args:
        figures: is added to.
        directory: keeps what was read for `add_kept`; None: nothing does.
        found: the checkpoints.
        progress: is given how many bytes the files have that are read.
    """
    left = [(name, one) for name, one in found if name not in figures.of and one.complete is not False]
    cache = _read_cache(directory) if directory else {}
    if not left:
        return
    kept = {name: cache[name] for name, _ in found if name in cache}
    try:
        with progress(sum(inspection.entry.size_bytes for _, inspection in left)) as on_bytes:
            for name, inspection in left:
                _read(figures, name, inspection, on_bytes)
                if name in figures.of:
                    kept[name] = _entry(inspection, figures.of[name])
    finally:  # also where Ctrl-C ends it
        if directory and figures.has_read:
            _write_cache(directory, kept)


def _read(figures: Figures, name: str, inspection: Inspection, on_bytes: OnBytes) -> None:
    done = 0

    def count(size_bytes: int) -> None:
        nonlocal done
        step = min(size_bytes, inspection.entry.size_bytes - done)  # views may have more than their file
        done += step
        on_bytes(step)

    try:
        figures.of[name] = Columns.of(dict(_statistics(inspection.entry.path, count)))
        figures.has_read = True
    except UnknownFormatError:
        pass
    except BadFileError as error:
        figures.damaged[name] = error.what
    except MarlinError:
        pass  # it has gone, or cannot be read: what is there says so
    on_bytes(inspection.entry.size_bytes - done)


def _statistics(path: str, on_bytes: OnBytes) -> Iterator[tuple[str, Statistics]]:
    from marlin_ckpt.formats.values import arrays  # noqa: PLC0415 - numpy, which a report goes without
    from marlin_ckpt.formats.values.accumulating import Accumulator  # noqa: PLC0415
    from marlin_ckpt.formats.values.sharded import whole  # noqa: PLC0415

    with one.opened(path) as checked:
        tensors = module_tensors(checked.contents)
        checked.expect(tensors.values())
        for name, tensor in tensors.items():
            found = Accumulator()
            try:
                if tensor.size_bytes <= _LARGE:
                    found.add(checked.values(tensor).reshape(-1))
                else:
                    checked.check(tensor)
                    with whole(checked, tensor) as (source, there):
                        for block in arrays.blocks(source, there):
                            found.add(block)
            except UnknownFormatError:  # of a dtype that is not known here
                continue
            on_bytes(tensor.size_bytes)
            yield name, found.statistics()


def _entry(inspection: Inspection, known: Columns) -> dict[str, Any]:
    entry = inspection.entry
    return {
        "size_bytes": entry.size_bytes,
        "modified_ns": entry.modified_ns,
        "statistics": json.loads(statistics.to_json(known.by_name())),
    }


def _cached(entry: Any, inspection: Inspection) -> Columns | None:
    """What the cache knows of a checkpoint, if that is as it was."""
    now = (inspection.entry.size_bytes, inspection.entry.modified_ns)
    try:
        if (entry["size_bytes"], entry["modified_ns"]) != now:
            return None
        return statistics.from_json(json.dumps(entry["statistics"]).encode())
    except (KeyError, TypeError, ValueError, BadFileError):
        return None


def _read_cache(directory: str) -> dict[str, Any]:
    files = own.read(directory, naming.STATISTICS, most_bytes=_MOST_BYTES).get("files")
    return files if isinstance(files, dict) else {}


def _write_cache(directory: str, entries: dict[str, Any]) -> None:
    """Keeps what was read, of too much the newest; but not in what is itself a checkpoint of another tool."""
    if catalog.entry(directory) is not None:
        return
    total, kept = 0, {}
    for name, entry in sorted(entries.items(), key=lambda pair: -pair[1]["modified_ns"]):
        total += len(json.dumps({name: entry})) + 2
        if total < _MOST_BYTES - len('{"files": {}}'):
            kept[name] = entry
    with contextlib.suppress(OSError):
        make_directory(os.path.dirname(cache_path(directory)))
        own.write(directory, naming.STATISTICS, {"files": kept})


def histograms(path: str) -> tuple[Histogram, ...]:
    """How the values of the module's tensors of a checkpoint spread; of one that cannot be read, none."""
    from marlin_ckpt.formats.values.distribution import checked_distributions  # noqa: PLC0415 - as above

    try:
        with one.opened(path) as checked:
            tensors = module_tensors(checked.contents)
            checked.expect(tensors.values())
            found = checked_distributions(checked, list(tensors.values()))
            return tuple(
                Histogram(
                    tensor=name,
                    counts=each.histogram,
                    low=each.statistics.minimum,
                    high=each.statistics.maximum,
                )
                for name, each in zip(tensors, found, strict=True)
            )
    except MarlinError:
        return ()
