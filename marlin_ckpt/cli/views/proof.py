"""The proof of `prove-resume` that a resumed run is the run that was never stopped, and its progress."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from marlin_ckpt.cli import output, terminal
from marlin_ckpt.cli.text import count
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.escaping import escape
from marlin_ckpt.training.proof.proof import Difference, Proof

_RUNS = {"straight": "training without a stop", "resumed": "training, killed and resumed"}


@contextlib.contextmanager
def progress(steps: int, *, quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """Shows a bar of the steps of both runs on a terminal, a line for each run elsewhere.

    Args:
        steps: of one run.
        quiet: show nothing.

    Yields:
        a function to be called with the name of a run and its step.
    """
    if quiet:
        yield lambda _name, _step: None
    elif output.is_terminal():
        with terminal.steps_bar(2 * steps) as show:
            yield lambda name, step: show(name, step + (steps if name == "resumed" else 0))
    else:
        begun: set[str] = set()

        def announce(name: str, _step: int) -> None:
            if name not in begun:
                begun.add(name)
                output.talk(_RUNS[name])

        yield announce


def document(found: Proof) -> dict[str, Any]:
    """The document of `prove-resume --json`."""
    difference = found.difference
    return {
        "identical": difference is None,
        "steps": found.steps,
        "kills": [str(one) for one in found.kills],
        "missed": [str(one) for one in found.missed],
        "compared": facts(found, "batches", "losses", "tensors", "values"),
        "difference": None
        if difference is None
        else {**asdict(difference), "cause": difference.cause and str(difference.cause)},
    }


def show(found: Proof) -> None:
    """Prints whether the runs are identical, or where they first differ."""
    for one in found.missed:
        output.talk(f"warning: no kill at {one}: the run never reached that moment")
    kills = ", ".join(map(str, found.kills)) or "nothing"
    if found.difference is None:
        output.data(f"identical: {count(found.steps, 'step')}, straight and killed after {kills}")
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
