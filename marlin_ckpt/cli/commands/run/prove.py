"""`marlin-ckpt prove-resume`."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Annotated

import typer

from marlin_ckpt.cli import output
from marlin_ckpt.cli.commands.run.train import Config, Overrides
from marlin_ckpt.cli.options import Json
from marlin_ckpt.errors import BadFileError

if TYPE_CHECKING:
    from marlin_ckpt.training.proof.proof import Kill

EXAMPLE = "Example: marlin-ckpt prove-resume --config configs/ci.yaml --steps 20 --kill-at 7,12:save"

_RANDOM_KILLS = 3


def _kills(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[1-9]\d*(:(step|save|validation))?(,[1-9]\d*(:\w+)?)*", text):
        raise typer.BadParameter("expected global steps such as 5,9:save,12:validation")
    return text


def _read_kills(text: str | None, steps: int) -> list[Kill]:
    from marlin_ckpt.training.proof.proof import MOMENTS, Kill

    if text is None:
        count = min(_RANDOM_KILLS, steps - 1)
        return [Kill(step) for step in random.sample(range(1, steps), count)]
    kills = []
    for part in text.split(","):
        step, _, moment = part.partition(":")
        kills.append(Kill(int(step), moment or "step"))
    if wrong := [one for one in kills if one.moment not in MOMENTS or one.step >= steps]:
        what = f"{wrong[0]}: expected a step below {steps}, alone or with :save or :validation"
        raise typer.BadParameter(what, param_hint="--kill-at")
    return kills


def prove_resume(
    config: Config,
    overrides: Overrides = None,
    steps: Annotated[
        int, typer.Option("--steps", metavar="N", min=2, help="The global steps to compare.")
    ] = 20,
    kill_at: Annotated[
        str | None,
        typer.Option(
            "--kill-at",
            metavar="K,...",
            callback=_kills,
            help="The global steps after which to kill, K, K:save or K:validation; else three random ones.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    json: Json = False,
) -> int:
    """Prove that a run which is killed and resumed is the run that was never stopped, bit for bit.

    Trains twice in processes of their own, once straight and once killed (SIGKILL) and resumed, and compares
    every tensor, value, batch and loss after every step. Exit 3, with the first difference, if there is one.
    """
    from marlin_ckpt.cli.views import proving
    from marlin_ckpt.training.proof import proof

    kills = _read_kills(kill_at, steps)
    with proving.steps_bar(steps, quiet=quiet or json) as on_step:
        found = proof.prove(config, overrides or (), steps=steps, kills=kills, on_step=on_step)
    if json:
        output.document(proving.document(found))
    else:
        proving.tell(found)
    return BadFileError.exit_code if found.difference else 0
