"""Proves that a run which is killed and resumed is the run that was never stopped, or finds where not."""

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace

from marlin_ckpt.arguments import ON_MANY
from marlin_ckpt.config import read_config
from marlin_ckpt.errors import ConfigError, Fault, StorageError, TrainingError
from marlin_ckpt.training.proof.child import Job
from marlin_ckpt.training.proof.findings import (
    COUNT,
    Difference,
    Kill,
    Proof,
    Resumed,
    Straight,
    first_difference,
)
from marlin_ckpt.training.proof.runs import Failed, OnStep, Part, Runs

_FEWEST = 2  # steps of a run in which it can be killed


@dataclass(frozen=True)
class Trial:
    """What is to be proved.

    Attributes:
        config: the YAML file.
        overrides: `KEY=VALUE` each.
        steps: how many global steps; None: until the run has saved twice, and past all kills.
        kills: when the second run is killed; in any order. None: after the first save, and twice at random.
        directory: where both runs keep their checkpoints until the proof ends; None: with the system's
            temporary files.
        ranks: how many each run has, which torchrun starts; 0: it is one process.
    """

    config: str
    overrides: Sequence[str] = ()
    steps: int | None = None
    kills: Sequence[Kill] | None = None
    directory: str | None = None
    ranks: int = 0


def prove(trial: Trial, on_step: OnStep) -> Proof:
    """Trains twice, once straight and once killed and resumed, and compares, in processes of their own.

    Args:
        trial: what is to be proved.
        on_step: called after each step, with `straight` or `resumed`, the number of the step, and of all.

    Raises:
        ConfigError: the configuration is wrong, or its backend is for another number of processes.
        StorageError: the directory cannot be used.
        TrainingError: the straight run fails, or the machine lets the other one fail.
    """
    _check(trial)
    where = trial.directory or tempfile.gettempdir()
    try:
        with tempfile.TemporaryDirectory(prefix="marlin-ckpt-proof-", dir=where) as folder:
            at_least = 1 + max((one.step for one in trial.kills or ()), default=0)
            job = Job(trial.config, list(trial.overrides), folder, trial.steps or 0, at_least)
            return _prove(Runs(job, on_step, trial.ranks), trial.kills)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError.of("cannot write", where, error) from error


def _check(trial: Trial) -> None:
    """Refuses a configuration before it is trained, and a backend that does not go with the ranks."""
    backend = read_config(trial.config, trial.overrides).trainer.backend
    if backend in ON_MANY and not trial.ranks:
        what, hint = f"{backend} trains in several processes", "--nproc 2 starts two ranks"
    elif backend not in ON_MANY and trial.ranks:
        what = f"{backend} trains in one process, and --nproc asks for {trial.ranks}"
        hint = "--set trainer.backend=ddp trains on many ranks, as fsdp2 does"
    else:
        return
    raise ConfigError([Fault("trainer.backend", what)], hint)


def _prove(runs: Runs, kills: Sequence[Kill] | None) -> Proof:
    try:
        whole = runs.run("straight", None)
    except Failed as error:
        raise TrainingError("the run fails, killed or not", error.where, error.what) from error
    straight = {one["step"]: one for one in whole.records}
    if kills is None:
        kills = _kills(whole.saves[0], max(straight, default=0), runs.ranks)
    struck: list[Kill] = []
    missed: list[Kill] = []
    resumed: Resumed = []
    failure: Difference | None = None
    last: Kill | None = None
    part = Part()
    planned = sorted(set(kills), key=lambda one: (one.step, one.moment, one.rank or 0))
    for number, kill in enumerate([*planned, None]):
        try:
            part = runs.run("resumed", kill)
        except Failed as error:
            step = resumed[-1][0]["step"] if resumed else 0
            failure = Difference(step, "the run cannot go on", "", error.what, last)
            break
        resumed += [(record, last) for record in part.records]
        if kill is not None:
            (struck if part.was_killed else missed).append(kill)
            last = kill if part.was_killed else last
            if not (part.was_killed or part.is_missed):  # the run has ended, perhaps early: see `should_stop`
                missed += planned[number + 1 :]
                break
    difference = first_difference(straight, resumed)
    if failure is not None:
        # The steps that the failure left undone are no difference of their own.
        is_shorter = difference is None or difference.what == COUNT
        difference = failure if is_shorter else difference
    else:
        difference = runs.compare_ends(difference, max(straight, default=0), last)
    found = _proof(straight, struck, missed, difference)
    return replace(found, unheld=_unheld(whole, part, failure), ranks=max(1, runs.ranks))


def _kills(first: int, steps: int, ranks: int = 0) -> list[Kill]:
    """After the first save, at some later step, and by a signal, wherever in an epoch that is.

    Of many ranks all are killed at first, and one by the others.
    """
    if steps < _FEWEST:
        return []
    one = random.sample(range(ranks), 1)[0] if ranks else None
    found = [Kill(random.sample(range(1, steps), 1)[0], "signal", one)]
    if first < steps:
        found += [Kill(first), Kill(random.sample(range(first, steps), 1)[0], "step", one)]
    return found


def _unheld(straight: Part, resumed: Part, failure: Difference | None) -> tuple[str, ...]:
    """What changes and is in no state, unless it was seen to be the same after a resume."""
    if failure is not None or not resumed.begin:
        return tuple(straight.unheld)
    either = dict.fromkeys([*straight.unheld, *resumed.unheld])
    return tuple(path for path in either if straight.values.get(path) != resumed.values.get(path))


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
