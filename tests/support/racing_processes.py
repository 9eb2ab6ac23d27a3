"""Lets savers, a pruner, loaders and inspectors loose on one directory and prints, as JSON, what each met.

A process of its own, so that torch is imported once and no test has started its threads before the forks:
`python racing_processes.py DIRECTORY LOADS SECONDS {marlin,plain}`. Each loader goes on until it has loaded
LOADS times and SECONDS have passed; the others until the loaders have ended.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import mmap
import os
import sys
import time
from collections.abc import Callable

import torch

from marlin_ckpt import (
    Checkpoint,
    CheckpointNotFoundError,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    naming,
)
from marlin_ckpt.directory import catalog, latest, removing
from marlin_ckpt.formats import inspection, verification
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.naming import OWN_DIRECTORY
from tests.support.folders import visible
from tests.support.workers import PATIENCE_S, Worker, together

SAVERS = 2
LOADERS = 3
TENSORS = 4
ELEMENTS = 32_000  # of 8 bytes each, in each tensor
KEPT = 4  # checkpoints that the pruner leaves, in two of three rounds
OTHERS = 100  # sub-directories, which a load searches too: so more happens before it opens what it found
END = b"x"

Save = Callable[[Checkpoint, int], object]


class Board:
    """Numbers that all processes see."""

    def __init__(self) -> None:
        numbers = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")
        self.settled = numbers[:SAVERS]  # by each saver: the newest index that none saves over any more
        self.awaited = numbers[
            SAVERS : SAVERS + LOADERS
        ]  # by each loader: how often it met what it is here for
        self.removed_to = numbers[10:11]  # the greatest index that was ever to be removed
        self.stop = numbers[11:12]

    def newest_sure(self, settled: list[int]) -> int:
        """The newest index that was there all the time since `settled` was read."""
        return max((index for index in settled if index > self.removed_to[0]), default=0)


def state_of(saver: int, index: int, count: int) -> Checkpoint:
    """States that tell who saved them, in every element."""
    stamp = index * 1_000_000 + count * SAVERS + saver
    weights = {str(number): torch.full((ELEMENTS,), stamp + number) for number in range(TENSORS)}
    return Checkpoint(weights, {"saver": saver, "index": index, "count": count}, {"stamp": stamp})


def fault_of(loaded: Checkpoint, path: str) -> str:
    """What is wrong with a loaded checkpoint; "" when it is one that was saved under this name."""
    if not loaded.trainer_state:
        return f"empty, from {path!r}"
    expected = state_of(**loaded.trainer_state)
    found = loaded.module_interface_state
    if os.path.basename(path) != f"model_{loaded.trainer_state['index']}.pt":
        return f"{path} holds {loaded.trainer_state}"
    if loaded.trainer_backend_state != expected.trainer_backend_state or set(found) != set(
        expected.module_interface_state
    ):
        return f"{path} holds a mixture"
    if not all(torch.equal(found[name], one) for name, one in expected.module_interface_state.items()):
        return f"{path} holds other numbers than were saved"
    return ""


def checkpointer_for(directory: str) -> DefaultCheckpointer:
    return DefaultCheckpointer(
        DefaultCheckpointerArguments(save_dir=directory, load_dir=directory, log_level="DEBUG")
    )


def save_with_marlin(directory: str) -> Save:
    return checkpointer_for(directory).save


def save_plainly(directory: str) -> Save:
    return lambda state, index: torch.save(state.payload(), os.path.join(directory, f"model_{index}.pt"))


def go_on_saving(board: Board, save: Save, saver: int, say_saved: int) -> dict:
    """Saves under every second index; under those that three divides again and again, as the other does."""
    index, count = saver + 1, 0
    while not board.stop[0]:
        shared = index - index % 3
        for under in (index, shared) if shared else (index,):
            save(state_of(saver, under, count), under)
            os.write(say_saved, b".")
            count += 1
        if index != shared:
            board.settled[saver] = index
        index += SAVERS
    return {"saves": count}


def go_on_pruning(board: Board, directory: str, saved: int) -> dict:
    """Removes older checkpoints, sometimes the newest too, but never the one of index 0."""
    found = {"removed": 0, "faults": []}
    news, rounds, ended = b"", 0, False
    while not ended:
        news += os.read(saved, 4096)
        ended = END in news
        if len(news) < KEPT and not ended:
            continue
        news = b""
        rounds += 1
        plan = removing.plan_cleaning(directory, prefix="model")
        indices = {removal: index_in(removal.path) for removal in plan.removals}
        by_age = sorted({index for index in indices.values() if index})
        going = set(by_age if rounds % 3 == 0 else by_age[:-KEPT])
        board.removed_to[0] = max(going | {board.removed_to[0]})
        removals = tuple(one for one, index in indices.items() if index is None or index in going)
        outcome = removing.carry_out(dataclasses.replace(plan, removals=removals))
        found["removed"] += len(outcome.removed)
        found["faults"] += [
            f"{one.path}: {one.error}"
            for one in outcome.failures
            if one.error not in {"another file has taken its place", "a live run writes it"}
        ]
    return found


def index_in(path: str) -> int | None:
    return naming.checkpoint_index(os.path.basename(path), "model", "pt")


class Messages(logging.Handler):
    """Keeps what a checkpointer says: which files `load` opened, and which it passed over."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.warnings.append(record.getMessage())
        elif record.getMessage().startswith("Loading checkpoint "):
            self.opened.append(record.getMessage().removeprefix("Loading checkpoint "))


def wait_for_the_pruner(found: dict) -> None:
    """Has loads of this process open what the pruner has removed meanwhile, until one has looked again."""
    look = latest.newest_first

    def look_and_wait(*args):
        files = list(look(*args))
        until_s = time.monotonic() + PATIENCE_S
        while not found["looked_again"] and index_in(files[0].path) and os.path.lexists(files[0].path):
            if time.monotonic() > until_s:
                raise SystemExit("the pruner removes nothing")
            os.sched_yield()
        return iter(files)

    latest.newest_first = look_and_wait


def go_on_loading(board: Board, directory: str, loader: int, loads: int, until_s: float, awaits: str) -> dict:
    found = {
        "loads": 0,
        "compared": 0,
        "looked_again": 0,
        "passed_over": 0,
        "broken": [],
        "wrong": [],
        "stale": [],
    }
    messages = Messages()
    logger = logging.getLogger("marlin_ckpt.checkpointer")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(messages)
    checkpointer = checkpointer_for(directory)
    if loader == 0 and awaits == "looked_again":
        wait_for_the_pruner(found)
    while (
        found["loads"] < loads or time.monotonic() < until_s or not any(board.awaited)
    ) and time.monotonic() < until_s + PATIENCE_S:
        messages.opened, messages.warnings = [], []
        settled = list(board.settled)
        try:
            loaded = checkpointer.load()
        except Exception as error:  # noqa: BLE001 - whatever a load may raise is what is looked for
            found["broken"].append(repr(error))
        else:
            path = messages.opened[-1] if messages.opened else ""
            sure = board.newest_sure(settled)
            found["compared"] += sure > 0
            if fault := fault_of(loaded, path):
                found["wrong"].append(fault)
            elif loaded.trainer_state["index"] < sure:
                found["stale"].append(f"{path}, while {sure} was there")
        found["loads"] += 1
        found["broken"] += messages.warnings
        found["passed_over"] += len(messages.warnings)
        found["looked_again"] += len(messages.opened) > 1 + len(messages.warnings)
        board.awaited[loader] = found[awaits]
    return found


def go_on_verifying(board: Board, directory: str) -> dict:
    found = {"verified": 0, "faults": []}
    while not board.stop[0]:
        for entry in catalog.find(directory):
            try:
                verdict = verification.verify(entry.path)
            except CheckpointNotFoundError:
                continue
            found["verified"] += 1
            if verdict.status is not Status.INTACT:
                found["faults"].append(f"{verdict.path}: {verdict.status}: {verdict.reason}")
    return found


def go_on_listing(board: Board, directory: str) -> dict:
    found = {"listed": 0, "faults": []}
    while not board.stop[0]:
        if not latest.get_latest_file(directory, "model"):
            found["faults"].append("no latest file")
        for one in map(inspection.inspect, catalog.find(directory)):
            found["listed"] += 1
            if not one.complete and one.reason != "cannot be read: No such file or directory":
                found["faults"].append(f"{one.entry.path}: {one.reason}")
    return found


def main(directory: str, loads: int, seconds: int, kind: str) -> dict:
    torch.set_num_threads(1)
    for other in range(OTHERS):
        os.makedirs(os.path.join(directory, f"other_{other}"))
    make_save = {"marlin": save_with_marlin, "plain": save_plainly}[kind]
    awaits = {"marlin": "looked_again", "plain": "passed_over"}[kind]
    make_save(directory)(state_of(0, 0, 0), 0)
    board = Board()
    saved, say_saved = os.pipe()
    savers = [Worker(go_on_saving, board, make_save(directory), one, say_saved) for one in range(SAVERS)]
    pruner = Worker(go_on_pruning, board, directory, saved)
    inspectors = [Worker(go_on_verifying, board, directory), Worker(go_on_listing, board, directory)]
    until_s = time.monotonic() + seconds
    loaders = [Worker(go_on_loading, board, directory, one, loads, until_s, awaits) for one in range(LOADERS)]
    found = {"loaders": together([one.result(seconds + 2 * PATIENCE_S) for one in loaders])}
    board.stop[0] = 1
    found["savers"] = together([one.result() for one in savers])
    os.write(say_saved, END)
    found["pruner"] = pruner.result()
    found["verifier"], found["lister"] = (one.result() for one in inspectors)
    left = [name for name in visible(directory) if not name.startswith("other_")]
    found["left"] = [name for name in left if index_in(name) is None]
    found["own"] = os.listdir(os.path.join(directory, OWN_DIRECTORY)) if kind == "marlin" else []
    found["torn"] = [
        name for name in left if verification.verify(os.path.join(directory, name)).status != "intact"
    ]
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
