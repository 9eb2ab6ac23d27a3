"""Starts the processes of a proof, and reads what they report."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, BinaryIO

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.checkpointer.default import DefaultCheckpointer
from marlin_ckpt.config import read_config
from marlin_ckpt.directory import catalog
from marlin_ckpt.errors import MarlinError, TrainingError
from marlin_ckpt.training.proof.child import Job, state_leaves
from marlin_ckpt.training.proof.findings import Difference, Kill, Record
from marlin_ckpt.training.proof.many import Ranks
from marlin_ckpt.training.resume.leaves import how_different

# How a process ends that kills itself, as subprocess reports it: by SIGKILL, and by a signal.
_KILLED = {False: (-9,), True: (-15, 143)}
_LAST_LINES = 3  # of what a process said before it failed

OnStep = Callable[[str, int, int], None]


class Failed(MarlinError):  # noqa: N818 - becomes a TrainingError or a difference
    """A process has failed."""


@dataclass
class Part:
    """What one process has reported.

    Attributes:
        records: of its steps.
        was_killed: whether it ended as it was to be killed.
        is_missed: it has ended since the moment for that had passed.
        begin: the global steps that were done when it began.
        saves: the global steps after which the run makes its first two checkpoints.
        steps: those that it was to do.
        values: of the module besides its state, at the end: fingerprints by path.
        unheld: the paths of those that have changed and are in no state.
        error: what it has failed with, of many ranks the one that failed first; "" where it has said nothing.
        is_of_others: whether that is no more than that another rank has ended.
    """

    records: list[Record] = field(default_factory=list)
    was_killed: bool = False
    is_missed: bool = False
    begin: int = 0
    saves: tuple[int, int] = (0, 0)
    steps: int = 0
    values: dict[str, str] = field(default_factory=dict)
    unheld: list[str] = field(default_factory=list)
    error: str = ""
    is_of_others: bool = False


@dataclass
class Runs:
    """The processes of a proof.

    Attributes:
        job: what they have in common; each has a folder of its own in its directory.
        on_step: see `prove`.
        ranks: how many each run has; 0: it is one process, without torchrun.
    """

    job: Job
    on_step: OnStep
    ranks: int = 0

    def run(self, name: str, kill: Kill | None) -> Part:
        """Runs one process, or as many as there are ranks.

        Raises:
            Failed: it has failed.
            TrainingError: the machine has let it fail.
        """
        directory = os.path.join(self.job.directory, name)
        os.makedirs(directory, exist_ok=True)
        job = replace(self.job, directory=directory)
        if kill is not None:
            job = replace(job, kill_at=kill.step, moment=kill.moment, rank=kill.rank)
        # The output of a module is no part of ours; its last lines are shown where the process fails.
        with open(os.path.join(self.job.directory, "said"), "w+b") as said:
            part = Part()
            run = self._run_many if self.ranks else self._run_one
            code, is_killed = run(name, job, said, part)
            is_killed = kill is not None and is_killed
            part.was_killed = is_killed and not part.is_missed
            if code and not (is_killed or part.is_missed):
                raise self._failure(part, code, said)
        # What comes after is the same number of steps, even if another save is nearer.
        self.job = replace(self.job, steps=part.steps or self.job.steps)
        return part

    def _failure(self, part: Part, code: int, said: BinaryIO) -> MarlinError:
        """The error for a run that nobody has killed, and that ended all the same."""
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
        reason = part.error or " ".join(" ".join(lines[-_LAST_LINES:]).split()) or f"it ended with {code}"
        if code < 0 or part.is_of_others:  # for want of memory, for example
            return TrainingError("a process of the proof was killed by another", self.job.config, reason)
        return Failed(reason, self.job.config)

    def _run_many(self, name: str, job: Job, said: BinaryIO, part: Part) -> tuple[int, bool]:
        """Runs the ranks; returns the exit code of torchrun, and whether it is that of a kill."""
        ranks = Ranks(job, self.ranks, said)
        with contextlib.closing(ranks.records()) as records:
            for record in records:
                self._take(name, record, part)
        fails = part.error and (job.moment == "signal" or not part.is_of_others)
        return ranks.code, ranks.is_struck and ranks.code != 0 and not fails

    def _run_one(self, name: str, job: Job, said: BinaryIO, part: Part) -> tuple[int, bool]:
        """Runs one process; returns its exit code, and whether it is that of a kill."""
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "marlin_ckpt.training.proof.child"]
        command.append(json.dumps(asdict(replace(job, fd=writing))))
        with os.fdopen(reading, "rb") as pipe:
            process = subprocess.Popen(  # noqa: S603 - ourselves
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=(writing,)
            )
            os.close(writing)
            try:
                self._read(name, pipe, part)
            finally:
                if sys.exc_info()[0] is not None:
                    process.kill()
                code = process.wait()
        return code, code in _KILLED[job.moment == "signal"]

    def _read(self, name: str, pipe: Iterable[bytes], part: Part) -> None:
        for line in pipe:
            if not line.endswith(b"\n"):  # cut off by the kill
                return
            self._take(name, json.loads(line), part)

    def _take(self, name: str, record: Record, part: Part) -> None:
        if "step" in record:
            part.records.append(record)
            self.on_step(name, record["step"], part.steps)
        elif "begin" in record:
            part.begin, part.saves, part.steps = record["begin"], record["saves"], record["steps"]
        elif "missed" in record:
            part.is_missed = True
        elif "end" in record:
            part.values, part.unheld = record["end"], record["unheld"]
        elif "error" in record:
            if not part.error or (part.is_of_others and not record["is_of_others"]):
                part.error, part.is_of_others = record["error"], record["is_of_others"]
        elif "failed" in record:
            what = "the proof cannot be finished: " + record["failed"]
            raise TrainingError(what, hint="--directory DIR chooses where it works")

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
