"""Proves that a run which is killed and resumed is the run that was never stopped, or finds where not."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.checkpointer.default import DefaultCheckpointer
from marlin_ckpt.config import read_config
from marlin_ckpt.directory import catalog
from marlin_ckpt.errors import MarlinError, TrainingError
from marlin_ckpt.training.proof.child import Job, state_leaves
from marlin_ckpt.training.resume.leaves import how_different

MOMENTS = ("step", "save", "validation")
_KILLED = -9  # by SIGKILL, as subprocess reports it
_COUNT = "the number of steps"
_LAST_LINES = 3  # of what a process said before it failed


@dataclass(frozen=True)
class Kill:
    """A moment at which a run is killed.

    Attributes:
        step: the global step after which.
        moment: of `MOMENTS`.
    """

    step: int
    moment: str = "step"

    def __str__(self) -> str:
        return f"{self.step}" if self.moment == "step" else f"{self.step}:{self.moment}"


@dataclass(frozen=True)
class Difference:
    """The first thing that is not the same.

    Attributes:
        step: the global step after which.
        what: `batch`, `loss`, a state's key, or what went wrong.
        straight: what it was in the run that was never stopped.
        resumed: what it was in the other one.
        cause: the last kill before it; None where there was none, so that resuming is not the reason.
        at_end: by how much it differs after the last step, where it does.
        hint: what to look for.
    """

    step: int
    what: str
    straight: str
    resumed: str
    cause: Kill | None
    at_end: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Proof:
    """What was compared, and what was found.

    Attributes:
        steps: the global steps of the straight run.
        kills: those that struck.
        missed: those whose step or moment did not come.
        batches, losses, tensors, values: how many were compared; the last two after each step.
        difference: the first; None where all is identical.
    """

    steps: int
    kills: tuple[Kill, ...]
    missed: tuple[Kill, ...]
    batches: int
    losses: int
    tensors: int
    values: int
    difference: Difference | None


Record = dict[str, Any]
Straight = dict[int, Record]  # by step
Resumed = list[tuple[Record, Kill | None]]  # in their order, each with the last kill before it
OnStep = Callable[[str, int], None]


class _Failed(MarlinError):  # noqa: N818 - becomes a TrainingError or a difference
    """A process has failed."""


def prove(config: str, overrides: Iterable[str], *, steps: int, kills: list[Kill], on_step: OnStep) -> Proof:
    """Trains twice, once straight and once killed and resumed, and compares, in processes of their own.

    Args:
        config: the YAML file.
        overrides: `KEY=VALUE` each.
        steps: how many global steps.
        kills: when the second run is killed; in any order.
        on_step: called after each step, with `straight` or `resumed` and the number of the step.

    Raises:
        TrainingError: the straight run fails.
    """
    with tempfile.TemporaryDirectory(prefix="marlin-ckpt-proof-") as directory:
        runs = _Runs(Job(config, list(overrides), directory, steps), on_step)
        try:
            straight = {one["step"]: one for one in runs.run("straight", None)[0]}
        except _Failed as error:
            raise TrainingError("the run fails, killed or not", error.where, error.what) from error
        struck: list[Kill] = []
        missed: list[Kill] = []
        resumed: Resumed = []
        failure: Difference | None = None
        last: Kill | None = None
        for kill in [*sorted(set(kills), key=lambda one: (one.step, one.moment)), None]:
            try:
                records, was_killed = runs.run("resumed", kill)
            except _Failed as error:
                step = resumed[-1][0]["step"] if resumed else 0
                failure = Difference(step, "the run cannot go on", "", error.what, last)
                break
            resumed += [(record, last) for record in records]
            if kill is not None:
                (struck if was_killed else missed).append(kill)
                last = kill if was_killed else last
        difference = first_difference(straight, resumed)
        if failure is not None:
            # The steps that the failure left undone are no difference of their own.
            is_shorter = difference is None or difference.what == _COUNT
            difference = failure if is_shorter else difference
        else:
            difference = runs.compare_ends(difference, max(straight, default=0), last)
        return _proof(straight, struck, missed, difference)


def first_difference(straight: Straight, resumed: Resumed) -> Difference | None:
    """Compares the records of two runs; pure.

    Args:
        straight: of the run that was never stopped, by step.
        resumed: of the other one, in their order, each with the last kill before it.
    """
    for record, cause in resumed:
        step = record["step"]
        other = straight.get(step)
        if other is None:
            return Difference(step, _COUNT, str(max(straight, default=0)), f"{step} or more", cause)
        for what, left, right in _pairs(other, record):
            if left != right:
                return Difference(step, what, left, right, cause, hint=_hint(what, cause))
    done = {record["step"] for record, _ in resumed}
    for step in sorted(straight.keys() - done):
        cause = resumed[-1][1] if resumed else None
        return Difference(step, _COUNT, f"{step} or more", str(max(done, default=0)), cause)
    return None


def _pairs(straight: Record, resumed: Record) -> Iterator[tuple[str, str, str]]:
    yield "batch", " | ".join(straight["batches"]), " | ".join(resumed["batches"])
    yield "loss", straight["loss"], resumed["loss"]
    for path in {**straight["states"], **resumed["states"]}:
        yield path, straight["states"].get(path, "missing"), resumed["states"].get(path, "missing")


def _hint(what: str, cause: Kill | None) -> str:
    if cause is None:
        return "no kill came before it: the run is not the same when it is simply run again"
    if what == "batch":
        needed = (
            "the sampler that get_train_dataloader is given or a state_dict and load_state_dict of its own"
        )
        return f"the loader does not go on where it was: it needs {needed}"
    return "the batches are the same: something drawn or counted is not in the module's state (get_state)"


def _proof(straight: Straight, struck: list[Kill], missed: list[Kill], first: Difference | None) -> Proof:
    states = [value for record in straight.values() for value in record["states"].values()]
    tensors = sum("] #" in value for value in states)
    return Proof(
        steps=max(straight, default=0),
        kills=tuple(struck),
        missed=tuple(missed),
        batches=sum(len(record["batches"]) for record in straight.values()),
        losses=len(straight),
        tensors=tensors,
        values=len(states) - tensors,
        difference=first,
    )


@dataclass(frozen=True)
class _Runs:
    """The processes of a proof.

    Attributes:
        job: what they have in common; each has a folder of its own in its directory.
        on_step: see `prove`.
    """

    job: Job
    on_step: OnStep

    def run(self, name: str, kill: Kill | None) -> tuple[list[Record], bool]:
        """Runs one process; returns what it reported, and whether it was killed.

        Raises:
            _Failed: it has failed.
        """
        directory = os.path.join(self.job.directory, name)
        os.makedirs(directory, exist_ok=True)
        reading, writing = os.pipe()
        period = 1 if name == "resumed" else self.job.steps
        job = replace(self.job, directory=directory, period=period, fd=writing)
        if kill is not None:
            job = replace(job, kill_at=kill.step, moment=kill.moment)
        command = [sys.executable, "-m", "marlin_ckpt.training.proof.child", json.dumps(asdict(job))]
        # The output of a module is no part of ours; its last lines are shown where the process fails.
        with open(os.path.join(self.job.directory, "said"), "w+b") as said, os.fdopen(reading, "rb") as pipe:
            process = subprocess.Popen(  # noqa: S603 - ourselves
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=(writing,)
            )
            os.close(writing)
            try:
                records = list(self._records(name, pipe))
            finally:
                if sys.exc_info()[0] is not None:
                    process.kill()
                code = process.wait()
            if code not in (0, _KILLED) or (code == _KILLED and kill is None):
                said.seek(0)
                lines = said.read().decode(errors="replace").splitlines()
                reason = " ".join(" ".join(lines[-_LAST_LINES:]).split())
                raise _Failed(reason or f"it ended with {code}", self.job.config)
        return records, code == _KILLED

    def _records(self, name: str, pipe: Iterable[bytes]) -> Iterator[Record]:
        for line in pipe:
            if not line.endswith(b"\n"):  # cut off by the kill
                return
            record: Record = json.loads(line)
            self.on_step(name, record["step"])
            yield record

    def compare_ends(self, found: Difference | None, step: int, last: Kill | None) -> Difference | None:
        """Compares the last checkpoints of both runs, as files give them back; adds how much they differ."""
        straight, resumed = (dict(self._end(name)) for name in ("straight", "resumed"))
        if found is not None:
            both = found.what in straight and found.what in resumed
            at_end = how_different(straight[found.what], resumed[found.what]) if both else ""
            return replace(found, at_end=at_end)
        for path in {**straight, **resumed}:
            if told := how_different(straight.get(path, "missing"), resumed.get(path, "missing")):
                return Difference(step, path, "", "", last, told, "the checkpoints of the last step differ")
        return None

    def _end(self, name: str) -> list[tuple[str, Any]]:
        directory = os.path.join(self.job.directory, name)
        extension = read_config(self.job.config, self.job.overrides).checkpointer.file_ext
        newest = catalog.find(directory, extension=extension)[-1]
        args = DefaultCheckpointerArguments(resume_from=newest.path, weights_only=False)
        return state_leaves(DefaultCheckpointer(args).load().payload())
