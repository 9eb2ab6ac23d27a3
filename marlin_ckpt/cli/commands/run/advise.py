"""`marlin-ckpt advise`."""

import warnings
from typing import Annotated

import typer

from marlin_ckpt.cli import output
from marlin_ckpt.cli.options import Json, argument, option, read_by
from marlin_ckpt.fields import size_of
from marlin_ckpt.storage.local.files import check_working_directory

EXAMPLE = "Example: marlin-ckpt advise checkpoints --size 1.5GB --step-seconds 0.4 --mtbf-hours 24"


def _above_0(value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter(f"expected a number above 0, not {value:g}")
    return value


def _share(value: float) -> float:
    if not 0 < value < 1:
        raise typer.BadParameter(f"expected a share above 0 and below 1, not {value:g}")
    return value


def advise(
    directory: Annotated[
        str | None, argument("[DIR]", "Where to save; else the working directory.", on_disk=True)
    ] = None,
    size: Annotated[
        str | None,
        option(
            "--size",
            "SIZE",
            "The size of a checkpoint; else of the largest in DIR.",
            callback=read_by(size_of),
        ),
    ] = None,
    step_seconds: Annotated[
        float | None, option("--step-seconds", "S", "The time of one step, in seconds.", callback=_above_0)
    ] = None,
    mtbf_hours: Annotated[
        float | None,
        option("--mtbf-hours", "H", "The mean time between two failures, in hours.", callback=_above_0),
    ] = None,
    max_overhead: Annotated[
        float,
        option("--max-overhead", "SHARE", "The share of the time that saves may take.", callback=_share),
    ] = 0.035,
    json: Json = False,
) -> None:
    """Measure the disk; advise how often to save.

    A few files of the size of a checkpoint, at most 2 GB, are written to DIR and removed again.
    """
    check_working_directory()
    if directory is None and size is None:
        raise typer.BadParameter("Missing argument 'DIR' or option '--size'.")
    from marlin_ckpt.cli.views import advice as view
    from marlin_ckpt.operations import advice as operation

    directory = directory or "."
    size_bytes = operation.state_bytes(directory, None if size is None else size_of(size))
    warnings.filterwarnings("ignore", "Failed to initialize NumPy")
    from marlin_ckpt.checkpointer import trial

    tried = trial.trial_bytes(size_bytes)
    with output.bytes_bar((trial.ROUNDS + 2) * tried, quiet=json) as on_bytes:
        figures = trial.measure(directory, tried, on_bytes).scaled_to(size_bytes)
    advice = operation.advise(
        figures,
        max_overhead=max_overhead,
        step_s=step_seconds,
        mean_time_between_failures_s=None if mtbf_hours is None else mtbf_hours * 3600,
    )
    found = directory, tried, figures, advice
    output.result(json, lambda: view.document(*found), lambda: view.show(*found))
