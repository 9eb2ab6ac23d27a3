"""How long a training loop waits for asynchronous saves: in the call, and before the next optimizer step."""

from __future__ import annotations

import statistics
import time

from benchmarks import behind, loops
from benchmarks.behind import Saver
from benchmarks.files import empty
from benchmarks.loops import Loop
from benchmarks.report import Row, Setting
from benchmarks.states import size_bytes, size_text


def stalling(setting: Setting) -> list[Row]:
    """How long saves hold two loops up, ours and others'."""
    return [row for make in loops.both(setting.sizes.medium) for row in _stalls(make(), setting)]


def _stalls(loop: Loop, setting: Setting) -> list[Row]:
    directory, size = setting.directory, size_bytes(loop.checkpoint())
    stalls: dict[tuple[str, bool], list[float]] = {}
    with behind.others(directory, setting.leave_out) as peers:
        savers = {
            "ours": behind.ours(loop, directory / "a"),
            "at once": behind.ours(loop, directory / "b", overlap=False),
            **peers,
        }
        if behind.ASYNC_CHECKPOINT_IO in peers:
            savers["in Lightning"] = behind.ours_in_lightning(directory / "c")
        for _ in range(setting.rounds + 1):
            for name, saver in savers.items():
                for is_long in (True, False) if name == "ours" else (True,):
                    stalls.setdefault((name, is_long), []).append(stall_s(loop, saver, is_long=is_long))
            empty(directory)
    copy_s = loops.copy_s(loops.aside(loop), setting.rounds)
    medians = {key: statistics.median(values[1:]) for key, values in stalls.items()}
    what = f"stall of saving {size_text(size)} behind {loop.name}"
    copy = "one copy of the state by two threads"
    mine = medians["ours", True]
    group, rounds = "stall", setting.rounds
    return [
        Row(group, what, copy, mine, copy_s, rounds, 0.25),
        *(Row(group, what, name, mine, medians[name, True], rounds, bound(name)) for name in peers),
        *(
            Row(
                group,
                f"{what} in Lightning",
                name,
                medians["in Lightning", True],
                medians[name, True],
                rounds,
                0.33,
            )
            for name in peers
            if name == behind.ASYNC_CHECKPOINT_IO
        ),
        Row(group, f"{what}, without a forward pass", copy, medians["ours", False], copy_s, rounds, 1.1),
        Row(group, f"{what}, the first time", copy, stalls["ours", True][0], copy_s, 1),
        Row(group, f"{what}, overlap: false", copy, medians["at once", True], copy_s, rounds),
    ]


def bound(peer: str) -> float:
    """The most that our stall may be of a peer's."""
    # Its call, too, only notes what is to be copied, by a lock that the next step waits for.
    return 2.0 if peer == behind.TORCH_CHECKPOINTING else 0.33


def stall_s(loop: Loop, saver: Saver, *, is_long: bool) -> float:
    """How long a loop waits for a save: in the call, and before its next step.

    Args:
        loop: that is trained.
        saver: that saves its state.
        is_long: whether there is a forward pass between the save and the step.
    """
    loop.forward()
    loop.step()
    checkpoint = loop.checkpoint()
    if not is_long:
        loop.forward()
    loop.wait()
    began = time.perf_counter()
    saver.save(checkpoint)
    stall_s = time.perf_counter() - began
    if is_long:
        loop.forward()
    loop.wait()
    began = time.perf_counter()
    with saver.around_step():
        stall_s += time.perf_counter() - began
        stall_s += loop.step()
    saver.finish()
    return stall_s
