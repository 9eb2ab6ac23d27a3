"""Flips the bits of small checkpoints, one at a time, and loads each with the tool's own loader."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults.formats import Pair, State
from benchmarks.states import flat

RIGHT, REFUSED, WRONG = b"=", b"!", b"~"  # what a forked process reports of each bit
_ENDED = b"x"
_BITS_A_PROCESS = 2_000
_SECONDS_A_LOAD = 30
_MORE_MEMORY = 4 << 30
_SHORTEST = 16  # bytes of a tensor that is looked for in the files: shorter ones may be there by chance

Place = tuple[Path, int]  # a file and the number of one of its bits


@dataclass(frozen=True)
class Flips:
    """What became of a checkpoint with one flipped bit, so many times.

    Attributes:
        written_by: the function that wrote it.
        loaded_by: the function that loaded it.
        size_bytes: of the checkpoint.
        every: which bits were flipped: each (1), or one of so many.
        right: how often what was loaded is what was saved, since the bit means nothing.
        refused: how often the load raised an error.
        wrong: how often other values were loaded, and nothing said so.
        ended: how often the process ended, or came to no end.
        data_flipped: how many of the bits are of the data of tensors.
        data_wrong: how many of these were loaded, and nothing said so.
    """

    written_by: str
    loaded_by: str
    size_bytes: int
    every: int
    right: int
    refused: int
    wrong: int
    ended: int
    data_flipped: int
    data_wrong: int

    @property
    def flipped(self) -> int:
        """How many bits were flipped, one after another."""
        return self.right + self.refused + self.wrong + self.ended

    def line(self) -> str:
        """What became of them, for a terminal."""
        ended = f", {self.ended} ended the process" if self.ended else ""
        return (
            f"{self.written_by}, {self.loaded_by}: {self.flipped} bits flipped, {self.wrong} loaded wrong in "
            f"silence, {self.right} loaded right, {self.refused} refused{ended}"
        )


def flip_each(pair: Pair, state: State, directory: Path, every: int | None = None) -> Flips:
    """Saves a state, and loads it once for each flipped bit.

    Args:
        pair: who writes and who loads.
        state: what is saved.
        directory: an empty one.
        every: flips one bit of so many, in place of what the pair says.

    Returns:
        how often which of the outcomes was seen.

    Raises:
        RuntimeError: the loader does not load what nobody has damaged.
    """
    every = every or pair.every
    held = pair.holds(state)
    path = directory / "checkpoint"
    pair.save(held, path)
    whole = {file: file.read_bytes() for file in (sorted(path.iterdir()) if path.is_dir() else [path])}
    in_data = {file: _bytes_of_tensors(content, held) for file, content in whole.items()}
    places = [(file, bit) for file, content in whole.items() for bit in range(len(content) * 8)][::every]

    def outcomes(places: Iterable[Place | None]) -> bytes:
        return _forked(lambda: (_outcome(pair, held, path, place) for place in places))

    if outcomes([None]) != RIGHT:
        raise RuntimeError(f"{pair.loaded_by} does not load what {pair.written_by} wrote")
    found = b""
    while len(found) < len(places):
        chunk = places[len(found) : len(found) + _BITS_A_PROCESS]
        seen = outcomes(chunk)
        if len(seen) < len(chunk):
            seen += _ENDED
            for file, content in whole.items():
                file.write_bytes(content)
        found += seen
    data = [byte for byte, (file, bit) in zip(found, places, strict=True) if bit // 8 in in_data[file]]
    return Flips(
        written_by=pair.written_by,
        loaded_by=pair.loaded_by,
        size_bytes=sum(map(len, whole.values())),
        every=every,
        right=found.count(RIGHT),
        refused=found.count(REFUSED),
        wrong=found.count(WRONG),
        ended=found.count(_ENDED),
        data_flipped=len(data),
        data_wrong=bytes(data).count(WRONG),
    )


def _outcome(pair: Pair, held: State, path: Path, place: Place | None) -> bytes:
    with _flipped(place):
        try:
            loaded = pair.load(held, path)
        except BaseException:  # noqa: BLE001 - torch.distributed raises one that is no Exception
            return REFUSED
        return RIGHT if _same(loaded, held) else WRONG


@contextlib.contextmanager
def _flipped(place: Place | None) -> Iterator[None]:
    if place is not None:
        _flip(*place)
    yield
    if place is not None:
        _flip(*place)


def _flip(file: Path, bit: int) -> None:
    with file.open("r+b", buffering=0) as opened:
        (byte,) = os.pread(opened.fileno(), 1, bit // 8)
        os.pwrite(opened.fileno(), bytes([byte ^ 1 << bit % 8]), bit // 8)


def _forked(outcomes: Callable[[], Iterable[bytes]]) -> bytes:
    """What a forked process says of each bit: of all, or of those before the one that ended it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _bound_memory()
            _hush()
            for outcome in outcomes():
                os.write(writing, outcome)
                signal.alarm(_SECONDS_A_LOAD)  # ends the process unless the next comes in time
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


def _bound_memory() -> None:
    """Damaged sizes may ask for any amount of memory."""
    with open("/proc/self/statm", encoding="ascii") as pages:
        now = int(pages.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _MORE_MEMORY, resource.RLIM_INFINITY))


def _hush() -> None:
    """Some packages log a page for each file that they refuse."""
    warnings.simplefilter("ignore")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)


def _same(one: Any, other: Any) -> bool:
    """Whether two states hold the same values, bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same_form = one.dtype == other.dtype and one.shape == other.shape
        return same_form and one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)


def _bytes_of_tensors(content: bytes, held: State) -> set[int]:
    """Where a file holds the data of tensors, but for the shortest, which may be found by chance."""
    places: set[int] = set()
    for _, tensor in flat(held):
        data = tensor.contiguous().numpy().tobytes()
        at = content.find(data) if len(data) >= _SHORTEST else -1
        places.update(range(at, at + len(data)) if at >= 0 else ())
    return places
