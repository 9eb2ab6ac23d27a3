"""`marlin-ckpt train`."""

import contextlib
import warnings
from typing import Annotated

import typer

from marlin_ckpt.cli import log, output
from marlin_ckpt.cli.options import Json, flag, option
from marlin_ckpt.storage.local.files import check_working_directory

EXAMPLE = "Example: marlin-ckpt train --config configs/quickstart.yaml --set trainer.epochs=2 --resume"

Config = Annotated[str, option("--config", "FILE", "The YAML file of the run.")]
Overrides = Annotated[
    list[str] | None,
    option("--set", "KEY=VALUE", "Override one key, such as trainer.epochs=5; may be repeated."),
]


def train(
    config: Config,
    overrides: Overrides = None,
    resume: Annotated[
        bool,
        flag("--resume", "Continue from the newest checkpoint in save_dir, or start where there is none."),
    ] = False,
    overwrite: Annotated[
        bool,
        flag("--overwrite", "Begin anew: first delete what delete_existing_checkpoints deletes in save_dir."),
    ] = False,
    exact: Annotated[
        bool, flag("--exact", "Refuse to continue if the run would not be the same bit for bit.")
    ] = False,
    no_crash_loop_guard: Annotated[
        bool,
        flag("--no-crash-loop-guard", "Continue even from a file that several runs in a row failed after."),
    ] = False,
    no_space_check: Annotated[bool, flag("--no-space-check", "Begin even if the disk may fill up.")] = False,
    quiet: Annotated[
        bool, flag("--quiet", "No progress and no table; only warnings and errors.", "-q")
    ] = False,
    json: Json = False,
) -> None:
    """Train by a YAML file, and save checkpoints.

    SIGTERM and Ctrl-C save and stop, SIGUSR1 saves; a second SIGTERM or Ctrl-C ends at once.
    """
    check_working_directory()
    from marlin_ckpt.cli.views import run as view
    from marlin_ckpt.config import read_config
    from marlin_ckpt.directory import notes
    from marlin_ckpt.operations import starting
    from marlin_ckpt.training import preemption

    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    if quiet:
        log.only_warnings()
    settings = read_config(config, overrides or ())
    checkpointer, trainer_args = settings.checkpointer, settings.trainer
    checkpointer.delete_existing_checkpoints = checkpointer.delete_existing_checkpoints or overwrite
    checkpointer.check_space = checkpointer.check_space and not no_space_check
    trainer_args.exact = trainer_args.exact or exact
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(preemption.listening(really=trainer_args.handle_signals))
        stack.enter_context(starting.leased(checkpointer, epochs=trainer_args.epochs, resume=resume))
        starter = starting.Starter(
            checkpointer,
            epochs=trainer_args.epochs,
            resume=resume,
            guards=not no_crash_loop_guard,
            announce=lambda start: view.announce(start, quiet=quiet),
        )

        # torch complains at each start where NumPy is not installed; nothing here needs it.
        warnings.filterwarnings("ignore", "Failed to initialize NumPy")
        from marlin_ckpt.cli.views.progress import RunProgress
        from marlin_ckpt.training.build import build_trainer

        def count_start() -> None:
            signals.at_once = stack.enter_context(notes.counted_start(starter.start.resumes_from))

        progress = stack.enter_context(RunProgress(quiet=quiet))
        stack.enter_context(output.stdout_for_data_alone())
        trainer = build_trainer(
            settings,
            observer=progress,
            before_load=count_start,
            finds_another=starter.finds_another,
            passed_over=lambda: starter.start.passed_over,
        )
        try:
            trainer.train()
        except BaseException:
            output.so_far(lambda: progress.report(trainer, starter.start))
            raise
    report = progress.report(trainer, starter.start)
    if json:
        output.document(report)
    elif not quiet and progress.has_news:
        view.show(report)
