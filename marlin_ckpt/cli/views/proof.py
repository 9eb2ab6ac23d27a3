"""The proof of `prove-resume` that a resumed run is the run that was never stopped, and its progress."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from marlin_ckpt.cli import output, stopping, terminal
from marlin_ckpt.cli.text import count
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.escaping import escape
from marlin_ckpt.training.proof.findings import Difference, Proof

_RUNS = {"straight": "training without a stop", "resumed": "training, killed and resumed"}


_LONG_S = 180.0


@contextlib.contextmanager
def progress(
    *, quiet: bool, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[str, int, int], None]]:
    """Shows a bar of the steps of both runs on a terminal, a line for each run elsewhere.

    It says once how long the proof will take where that is more than a few minutes.

    Args:
        quiet: show nothing.
        clock: in seconds.

    Yields:
        a function to be called with the name of a run, its step, and the number of steps.
    """
    begun: dict[str, tuple[int, float]] = {}
    at = ["nothing was trained"]
    stopping.says(lambda: f"{at[0]}; nothing is proven")
    with contextlib.ExitStack() as stack:
        shown: list[Callable[[str, int], None]] = []

        def tell(name: str, step: int, steps: int) -> None:
            at[0] = f"{_RUNS[name]}, step {step} of {steps}"
            if quiet:
                return
            if is_first := name not in begun:
                begun[name] = step, clock()
            first, since = begun[name]
            if output.is_terminal():
                if not shown:
                    shown.append(stack.enter_context(terminal.steps_bar(2 * steps)))
                shown[0](name, step + (steps if name == "resumed" else 0))
            elif is_first:
                output.talk(_RUNS[name])
            if name == "straight" and step == first + 1:
                seconds = 2 * steps * (clock() - since)
                if seconds > _LONG_S:
                    minutes = f"about {seconds / 60:,.0f} minutes for twice {count(steps, 'step')}"
                    output.talk(f"this takes {minutes}; --steps N compares fewer")

        yield tell


def document(found: Proof) -> dict[str, Any]:
    """The document of `prove-resume --json`."""
    difference = found.difference
    return {
        "identical": difference is None,
        "steps": found.steps,
        "ranks": found.ranks,
        "kills": [str(one) for one in found.kills],
        "missed": [str(one) for one in found.missed],
        "unheld": list(found.unheld),
        "compared": facts(found, "batches", "losses", "tensors", "values"),
        "difference": None
        if difference is None
        else {**asdict(difference), "cause": difference.cause and str(difference.cause)},
    }


def show(found: Proof) -> None:
    """Prints whether the runs are identical, or where they first differ."""
    for one in found.missed:
        output.talk(f"warning: no kill at {one}: the run never reached that moment")
    for path in found.unheld:
        what = f"the module's {escape(path)} changes while it trains, and no state holds it"
        output.talk(f"warning: {what}: a resumed run begins with another value")
    kills = ", ".join(map(str, found.kills)) or "nothing"
    if found.difference is None:
        on = f" on {found.ranks} ranks" if found.ranks > 1 else ""
        output.data(f"identical: {count(found.steps, 'step')}{on}, straight and killed after {kills}")
        compared = f"{found.batches:,} batches, {found.losses:,} losses, {found.tensors:,} tensors"
        output.data(f"compared bit for bit: {compared} and {found.values:,} values, step by step")
        return
    _show_difference(found.difference, kills)


def _show_difference(found: Difference, kills: str) -> None:
    output.data(f"different: after step {found.step}: {escape(found.what)}")
    for name, value in (("straight", found.straight), ("resumed", found.resumed)):
        if value:
            output.data(f"  {name}: {escape(value)}")
    if found.at_end:
        output.data(f"  in the last checkpoints: {escape(found.at_end)}")
    before = "before the first kill" if found.cause is None else f"after the kill at {found.cause}"
    output.data(f"  {before}; killed after {kills}")
    if found.hint:
        output.talk(f"hint: {found.hint}")
