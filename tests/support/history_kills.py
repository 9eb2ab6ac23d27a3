"""Trainings that are forked, killed at a step of theirs or within a line of their history, and resumed."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

from marlin_ckpt import DefaultCheckpointer, RetentionArguments, Trainer, TrainerArguments
from marlin_ckpt.arguments import DefaultCheckpointerArguments, SpiralArguments
from marlin_ckpt.directory import catalog
from marlin_ckpt.directory.history import journal, reading
from marlin_ckpt.directory.history.events import Ended, Removed, Saved, Started
from marlin_ckpt.formats.verification import examine
from marlin_ckpt.training.toys.spiral import Spiral
from tests.support.peer_kills import Steps, forked

EPOCHS, KEPT = 4, 2
_write = os.write  # whose calls are no steps


class Telling:
    """Writes down which checkpoints the trainer reports as durable, as they are reported."""

    def __init__(self, directory: Path) -> None:
        self._fd = os.open(f"{directory}.told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def on_save(self, path: str, *_: Any) -> None:
        _write(self._fd, os.path.basename(path).encode() + b"\n")

    def __getattr__(self, _: str) -> Any:
        return lambda *_: None


def train(directory: Path, *, is_async: bool) -> None:
    """Trains from what is there to the end."""
    args = DefaultCheckpointerArguments(
        save_dir=directory,
        load_dir=directory,
        model_state_save_dir=None,
        keep=RetentionArguments(last=KEPT),
        async_save=is_async,
        log_level="ERROR",
    )
    arguments = TrainerArguments(device="cpu", epochs=EPOCHS, train_batch_size=8, log_level="CRITICAL")
    module, checkpointer = Spiral(SpiralArguments(points=10)), DefaultCheckpointer(args)
    Trainer(module, arguments, checkpointer=checkpointer, observer=Telling(directory)).train()


def watch(steps: Steps) -> None:
    """Counts the calls that change the disk, and half of each write to the history."""
    steps.watch_system_calls()
    whole = journal.write_all

    def in_halves(fd: int, data: memoryview) -> None:
        whole(fd, data[: len(data) // 2])
        steps.step()
        whole(fd, data[len(data) // 2 :])
        steps.step()

    journal.write_all = in_halves


def kills(directory: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Kills so many trainings, each twice at most, and has each go on until it ends.

    Returns:
        "killed", how many kills hit, "torn", how many of these within a line, and in "faults" what was wrong.
    """
    draw = random.Random(seed)
    found: dict[str, Any] = {"killed": 0, "torn": 0, "faults": []}
    steps = {}
    train(directory / "warm", is_async=False)  # what a training imports on its way is there in each child
    for is_async in (False, True):
        where = directory / f"whole-{is_async}"
        whole = forked(lambda: train(where, is_async=is_async), watch)  # noqa: B023 - called at once
        assert whole["status"] == 0, whole["error"]
        steps[is_async] = whole["steps"]
    for number in range(count):
        where, is_async = directory / str(number), bool(number % 2)
        before, is_ended = b"", False
        for starts in (1, 2):
            at = draw.randrange(1, steps[is_async])
            ended = forked(lambda: train(where, is_async=is_async), watch, at)  # noqa: B023 - as above
            found["killed"] += ended["status"] == -signal.SIGKILL
            now = _lines(where)
            found["torn"] += bool(now) and not now.endswith(b"\n")
            is_ended = ended["status"] == 0
            found["faults"] += [f"{number}, step {at}: {one}" for one in _faults(where, before, starts)]
            before = now[: now.rfind(b"\n") + 1]
            if is_ended:
                break
        if not is_ended:
            ended = forked(lambda: train(where, is_async=is_async), lambda _: None)  # noqa: B023 - as above
            if ended["status"]:
                found["faults"].append(f"{number}: does not go on: {ended['error']}")
        last = reading.read(str(where)).events[-1]
        if not (isinstance(last, Ended) and last.how == "finished"):
            found["faults"].append(f"{number}: ends with {last}")
    return found


def _lines(directory: Path) -> bytes:
    file = directory / ".marlin-ckpt" / "events.jsonl"
    return file.read_bytes() if file.exists() else b""


def _faults(directory: Path, before: bytes, starts: int) -> list[str]:
    """What is wrong with a history after a kill."""
    faults = []
    if not _lines(directory).startswith(before):
        faults.append("lines of an earlier process have changed")
    past = reading.read(str(directory))
    if past.unread or past.newer:
        faults.append(f"{past.unread + past.newer} lines cannot be read")
    if sum(isinstance(one, Started) for one in past.events) > starts:
        faults.append("there are more starts than processes")
    saved = {one.name for one in past.events if isinstance(one, Saved)}
    told = Path(f"{directory}.told")
    if unsaid := set(told.read_text().split() if told.exists() else ()) - saved:
        faults.append(f"{sorted(unsaid)} were reported, and the history has no save of them")
    there = {one.item.name: one for one in catalog.find(directory)} if directory.exists() else {}
    faults += [f"{name} is damaged" for name, one in there.items() if not examine(one).status.is_sound]
    # Each kill may come between a save and its line, and between a removal and its line.
    if len(unsaid := set(there) - saved) > starts:
        faults.append(f"{sorted(unsaid)} are there, and the history has no save of them")
    gone = saved - set(there) - {one.name for one in past.events if isinstance(one, Removed)}
    if len(gone) > starts:
        faults.append(f"nothing says why {sorted(gone)} went")
    return faults
