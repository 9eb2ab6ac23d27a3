"""`marlin-ckpt train`."""

from __future__ import annotations

import warnings
from typing import Annotated

import typer

from marlin_ckpt.cli import render
from marlin_ckpt.cli.options import Json

EXAMPLE = "Example: marlin-ckpt train --config configs/quickstart.yaml --set trainer.epochs=2 --resume"


def train(
    config: Annotated[str, typer.Option("--config", metavar="FILE", help="The YAML file of the run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override one key, such as trainer.epochs=5; may be repeated."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue from save_dir if there is something to continue, else start."
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress and no table; only what went wrong.")
    ] = False,
    json: Json = False,
) -> None:
    """Train the module of a YAML file, saving checkpoints on the way."""
    from marlin_ckpt.checkpointer import starting
    from marlin_ckpt.config import read_config

    settings = read_config(config, overrides or ())
    start = starting.decide(settings.checkpointer, epochs=settings.trainer.epochs, resume=resume)
    render.announce_start(start, quiet=quiet)
    starting.apply(start, settings.checkpointer, epochs=settings.trainer.epochs)

    # torch complains at each start where NumPy is not installed; nothing here needs it.
    warnings.filterwarnings("ignore", "Failed to initialize NumPy")
    from marlin_ckpt.cli.progress import RunProgress
    from marlin_ckpt.training.build import build_trainer

    with RunProgress(quiet=quiet) as progress, render.stdout_for_data_alone():
        trainer = build_trainer(settings, observer=progress)
        progress.tell_if_finished(trainer)
        trainer.train()
    report = progress.report(trainer, start)
    if json:
        render.document(report)
    elif not quiet:
        render.run_table(report)
