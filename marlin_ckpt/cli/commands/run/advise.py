"""`marlin-ckpt advise`."""

from __future__ import annotations

import warnings
from typing import Annotated

import typer

from marlin_ckpt.cli import output
from marlin_ckpt.cli.options import Json
from marlin_ckpt.cli.views import advising
from marlin_ckpt.errors import CheckpointNotFoundError
from marlin_ckpt.fields import size_of

EXAMPLE = "Example: marlin-ckpt advise checkpoints --size 1.5GB --step-seconds 0.4 --mtbf-hours 24"


def _size(text: str | None) -> str | None:
    try:
        return text if text is None else str(size_of(text))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _above_0(value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter(f"expected a number above 0, not {value:g}")
    return value


def _share(value: float) -> float:
    if not 0 < value < 1:
        raise typer.BadParameter(f"expected a share above 0 and below 1, not {value:g}")
    return value


def _size_in(directory: str, told: str | None) -> int:
    from marlin_ckpt.directory import catalog

    found = catalog.find(directory, extension="pt")  # a directory that is not there is told here
    if told is not None:
        return int(told)
    if not found:
        hint = f"marlin-ckpt advise {directory} --size 1.5GB"
        raise CheckpointNotFoundError("no checkpoint to take the size of", directory, hint)
    return max(entry.size_bytes for entry in found)


def advise(
    directory: Annotated[
        str | None, typer.Argument(metavar="[DIR]", help="Where to save; without it the working directory.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="SIZE", callback=_size, help="Of a checkpoint; else that of the largest in DIR."
        ),
    ] = None,
    step_seconds: Annotated[
        float | None,
        typer.Option("--step-seconds", metavar="S", callback=_above_0, help="How long a step takes."),
    ] = None,
    mtbf_hours: Annotated[
        float | None,
        typer.Option(
            "--mtbf-hours", metavar="H", callback=_above_0, help="The mean time between two failures."
        ),
    ] = None,
    max_overhead: Annotated[
        float,
        typer.Option(
            "--max-overhead", metavar="SHARE", callback=_share, help="The time that saves may cost."
        ),
    ] = 0.035,
    json: Json = False,
) -> None:
    """Measure what saves take on this disk, and tell how often a run should save.

    A few files of that size, 2 GB at most, are written and removed.
    """
    if directory is None and size is None:
        raise typer.BadParameter("Missing argument 'DIR' or option '--size'.")
    directory = directory or "."
    size_bytes = _size_in(directory, size)

    warnings.filterwarnings("ignore", "Failed to initialize NumPy")
    from marlin_ckpt.checkpointer import trial
    from marlin_ckpt.operations.advice import advise as advise_of

    tried = trial.trial_bytes(size_bytes)
    with output.bytes_bar((trial.ROUNDS + 2) * tried, quiet=json) as on_bytes:
        figures = trial.measure(directory, tried, on_bytes).scaled_to(size_bytes)
    advice = advise_of(
        figures,
        max_overhead=max_overhead,
        step_s=step_seconds,
        mean_time_between_failures_s=None if mtbf_hours is None else mtbf_hours * 3600,
    )
    if json:
        output.document(advising.document(directory, tried, figures, advice))
    else:
        advising.tables(directory, tried, figures, advice)
