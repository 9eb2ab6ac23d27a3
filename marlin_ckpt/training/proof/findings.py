"""What a proof of exact resuming finds: the first difference between two runs, if there is one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MOMENTS = ("step", "save", "validation", "signal")
COUNT = "the number of steps"


@dataclass(frozen=True)
class Kill:
    """A moment at which a run is killed.

    Attributes:
        step: the global step after which.
        moment: of `MOMENTS`.
        rank: of many, the one that is killed; None: all are.
    """

    step: int
    moment: str = "step"
    rank: int | None = None

    def __str__(self) -> str:
        moment = "" if self.moment == "step" else f":{self.moment}"
        return f"{self.step}{moment}{'' if self.rank is None else f'@{self.rank}'}"


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
        ranks: of each run; 1: it was one process.
        kills: those that struck.
        missed: those whose step or moment did not come.
        batches, losses, tensors, values: how many were compared; the last two after each step.
        difference: the first; None where all is identical.
        unheld: tensors and numbers of the module that change while it trains and that no state holds, by the
            paths that lead to them.
    """

    steps: int
    kills: tuple[Kill, ...]
    missed: tuple[Kill, ...]
    batches: int
    losses: int
    tensors: int
    values: int
    difference: Difference | None
    unheld: tuple[str, ...] = ()
    ranks: int = 1


Record = dict[str, Any]
Straight = dict[int, Record]  # by step
Resumed = list[tuple[Record, Kill | None]]  # in their order, each with the last kill before it


def merged(parts: list[Record]) -> Record:
    """The records that all ranks have of one step, in their order, as one."""
    main, *others = parts
    states = {
        f"rank {rank}/{path}": value
        for rank, one in enumerate(others, 1)
        for path, value in one["states"].items()
    }
    batches = [batch for one in parts for batch in one["batches"]]
    return {**main, "batches": batches, "states": {**main["states"], **states}}


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
            return Difference(step, COUNT, str(max(straight, default=0)), f"{step} or more", cause)
        for what, left, right in _pairs(other, record):
            if left != right:
                return Difference(step, what, left, right, cause, hint=_hint(what, cause))
    done = {record["step"] for record, _ in resumed}
    for step in sorted(straight.keys() - done):
        cause = resumed[-1][1] if resumed else None
        return Difference(step, COUNT, f"{step} or more", str(max(done, default=0)), cause)
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
