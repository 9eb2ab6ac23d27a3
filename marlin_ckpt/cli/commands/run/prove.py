"""`marlin-ckpt prove-resume`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from marlin_ckpt.cli import output
from marlin_ckpt.cli.commands.run.train import Config, Overrides
from marlin_ckpt.cli.options import Json, check_on_disk, flag, option
from marlin_ckpt.errors import BadFileError
from marlin_ckpt.storage.local.files import check_working_directory

if TYPE_CHECKING:
    from marlin_ckpt.training.proof.findings import Kill

EXAMPLE = "Example: marlin-ckpt prove-resume --config configs/ci.yaml --steps 20 --kill-at 7,12:save"


_KILL = r"[1-9]\d{0,17}(:\w+)?(@\d{1,6})?"


def _kills(text: str | None, steps: int | None, ranks: int) -> list[Kill] | None:
    from marlin_ckpt.training.proof.findings import MOMENTS, Kill

    if text is None:
        return None
    if not re.fullmatch(rf"{_KILL}(,{_KILL})*", text):
        what = "expected global steps such as 5,9:save,12:validation"
        raise typer.BadParameter(what, param_hint="--kill-at")
    kills = []
    for part in text.split(","):
        when, _, rank = part.partition("@")
        step, _, moment = when.partition(":")
        kills.append(Kill(int(step), moment or "step", int(rank) if rank else None))
    for one in kills:
        if one.rank is not None and one.rank >= ranks:
            what = f"{one}: there are {ranks} ranks" if ranks else f"{one}: only --nproc starts ranks"
            raise typer.BadParameter(what, param_hint="--kill-at")
        if one.moment not in MOMENTS or (steps is not None and one.step >= steps):
            below = "" if steps is None else f" below {steps}"
            what = f"{one}: expected a step{below}, alone or with :save, :validation or :signal"
            raise typer.BadParameter(what, param_hint="--kill-at")
    return kills


def prove_resume(
    config: Config,
    overrides: Overrides = None,
    steps: Annotated[
        int | None, option("--steps", "N", "The global steps to compare; else up to the second save.", min=2)
    ] = None,
    kill_at: Annotated[
        str | None,
        option(
            "--kill-at",
            "K,...",
            "After which global steps to kill: K, K:save, K:validation or K:signal; K@1 kills rank 1 alone.",
        ),
    ] = None,
    nproc: Annotated[
        int, option("--nproc", "N", "Have torchrun start N ranks, for the backends of many.", min=0)
    ] = 0,
    directory: Annotated[
        str | None,
        option(
            "--directory",
            "DIR",
            "Where both runs save; else in a temporary directory.",
            callback=check_on_disk,
        ),
    ] = None,
    quiet: Annotated[bool, flag("--quiet", "No progress.", "-q")] = False,
    json: Json = False,
) -> int:
    """Check that a killed run resumes bit for bit.

    Trains twice, in processes of their own: once without a stop, and once killed and resumed. Compares every
    tensor, value, batch and loss after every step. Without --kill-at the second run is killed (SIGKILL) after
    its first save and at a random step, and stopped once by SIGTERM. Warns about attributes of the module
    that change in training but are in no saved state. Exits 3 with the first difference, if there is one.
    """
    check_working_directory()
    from marlin_ckpt.cli.views import proof as view
    from marlin_ckpt.training.proof.proof import Trial, prove

    kills = _kills(kill_at, steps, nproc)
    with view.progress(quiet=quiet or json) as on_step:
        found = prove(Trial(config, overrides or (), steps, kills, directory, nproc), on_step)
    output.result(json, lambda: view.document(found), lambda: view.show(found))
    return BadFileError.exit_code if found.difference else 0
