"""What rank 0 of a large run does for a sharded checkpoint, simulated: plans, gathered bytes, `.metadata`.

What the other ranks would send is made up first, and not timed. Stock's planner keeps an object of Python for
each chunk, so it is run for a sixteenth of the ranks, and its figures are taken times 16.
"""

from __future__ import annotations

from benchmarks import rank_zero
from benchmarks.crew import processes
from benchmarks.report import Row, Setting

_PART = 16
_LATER_BYTES = 512  # at most, that a rank sends at a later save; tests/unit/distributed/test_saving.py
_MIB = 1 << 20


def planning(setting: Setting) -> list[Row]:
    """Rank 0's seconds, gathered bytes and memory, beside those of stock's planner."""
    world, tensors = setting.sizes.ranks, setting.sizes.sharded
    ours = _child("ours", world, tensors)
    stock = {name: value * _PART for name, value in _child("stock", world // _PART, tensors).items()}
    against = f"stock's planner, {world // _PART} ranks x {_PART}"
    what = f"{world:,} ranks, {tensors:,} sharded tensors: rank 0"
    sent = stock["plans_mib"] + stock["results_mib"]
    return [
        Row("planning", f"{what} plans the first save", against, ours["plan_s"], stock["plan_s"], 1),
        Row("planning", f"{what} gathers for it", against, ours["plans_mib"], sent, 1, unit="MiB"),
        Row("planning", f"{what} needs memory for it", against, ours["memory_mib"], stock["memory_mib"], 1,
            unit="MiB"),
        Row("planning", f"{what} works for a later save", against, ours["later_s"], stock["plan_s"], 1),
        Row("planning", f"{what} gathers for a later save", against, world * _LATER_BYTES / _MIB, sent, 1,
            unit="MiB"),
        Row("planning", f"{what} reads `.metadata`", against, ours["read_s"], stock["read_s"], 1),
        Row("planning", f"{what} finds what it loads", against, ours["find_s"], stock["find_s"], 1),
    ]  # fmt: skip


def _child(kind: str, world: int, tensors: int) -> dict[str, float]:
    """Measures in a process of its own, whose peak of memory is that of this alone."""
    context = processes()
    found, tell = context.Pipe(duplex=False)
    process = context.Process(target=rank_zero.child, args=(tell, kind, world, tensors))
    process.start()
    tell.close()
    figures: dict[str, float] = found.recv()
    process.join()
    return figures
