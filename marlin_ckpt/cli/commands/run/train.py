"""`marlin-ckpt train`."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marlin_ckpt.cli import log, output, stopping
from marlin_ckpt.cli.options import Json, flag, option
from marlin_ckpt.cli.ranks import printing
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.storage.local.files import check_working_directory

if TYPE_CHECKING:
    from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
    from marlin_ckpt.config import Config as Settings
    from marlin_ckpt.operations.starting import ByMain
    from marlin_ckpt.training.preemption import Signals

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

    SIGTERM and Ctrl-C save and stop, SIGUSR1 saves; a second SIGTERM or Ctrl-C ends at once. The backends for
    many processes are started by torchrun --nproc-per-node 4 -m marlin_ckpt train --config FILE.
    """
    check_working_directory()
    from marlin_ckpt.arguments import ON_MANY
    from marlin_ckpt.cli.views import run as view
    from marlin_ckpt.config import read_config

    printing.part.begin()
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    if quiet:
        log.only_warnings()
    settings = read_config(config, overrides or ())
    checkpointer, trainer_args = settings.checkpointer, settings.trainer
    checkpointer.delete_existing_checkpoints = checkpointer.delete_existing_checkpoints or overwrite
    checkpointer.check_space = checkpointer.check_space and not no_space_check
    trainer_args.exact = trainer_args.exact or exact
    printing.part.check(trainer_args.backend, is_for_many=trainer_args.backend in ON_MANY)
    report, has_news = _run(settings, resume=resume, guards=not no_crash_loop_guard, quiet=quiet)
    if json and printing.part.is_main:
        output.document(report)
    elif has_news and not quiet:
        view.show(report)


def _run(settings: Settings, *, resume: bool, guards: bool, quiet: bool) -> tuple[dict[str, Any], bool]:
    """Trains; returns the document, and whether it has news: none but at rank 0."""
    from marlin_ckpt.cli.views import run as view
    from marlin_ckpt.directory import notes
    from marlin_ckpt.operations import starting
    from marlin_ckpt.training import preemption

    is_main, checkpointer, epochs = printing.part.is_main, settings.checkpointer, settings.trainer.epochs
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(preemption.listening(really=settings.trainer.handle_signals))
        # torch complains at each start where NumPy is not installed; nothing here needs it.
        warnings.filterwarnings("ignore", "Failed to initialize NumPy")
        by_main = _by_main(settings)
        resume = _leased(stack, settings, by_main, signals, resume=resume)
        starter = starting.Starter(
            checkpointer,
            epochs=epochs,
            resume=resume,
            guards=guards,
            announce=lambda start: view.announce(start, quiet=quiet) if is_main else None,
            by_main=by_main,
        )
        from marlin_ckpt.cli.views.progress import RunProgress
        from marlin_ckpt.training.build import build_trainer

        def count_start() -> None:
            if is_main:
                signals.at_once = stack.enter_context(notes.counted_start(starter.start.resumes_from))

        progress = RunProgress(quiet=quiet)
        if is_main:
            stack.enter_context(progress)
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
            printing.part.before_end(lambda: _let_end(trainer.checkpointer))
            raise
    return (progress.report(trainer, starter.start) if is_main else {}), progress.has_news


def _let_end(checkpointer: AbstractCheckpointer) -> None:
    """Waits for the save under way when the run has failed, whose error has been printed by then."""
    from marlin_ckpt.checkpointer.hooks import hooks_of

    try:
        hooks_of(checkpointer).wait()
    except Exception as error:  # noqa: BLE001 - the other one is what counts
        level = logging.ERROR if printing.part.is_main else logging.INFO
        get_logger(__name__).log(level, "The save under way failed, too: %s", error)


def _by_main(settings: Settings) -> ByMain:
    """Finds the other ranks, where there are to be others; gives what has rank 0 do a thing for all."""
    from marlin_ckpt.arguments import ON_MANY
    from marlin_ckpt.operations import starting

    if settings.trainer.backend not in ON_MANY:
        return starting.alone
    from marlin_ckpt.training.parallel import joining

    return joining.by_main(settings.trainer)


def _leased(
    stack: contextlib.ExitStack, settings: Settings, by_main: ByMain, signals: Signals, *, resume: bool
) -> bool:
    """Takes the lease, for as long as the context lasts; returns whether to resume.

    A signal ends the command here: it may wait a minute for another run's lease, or longer for a store.
    """
    from marlin_ckpt.operations import launched, restarts, starting

    checkpointer, launch = settings.checkpointer, launched.launch()

    def take() -> bool:
        with signals.raising():
            resumes = resume or restarts.resumes(checkpointer, launch)
            stack.enter_context(starting.leased(checkpointer, epochs=settings.trainer.epochs, resume=resumes))
            restarts.begins(checkpointer, launch)
            return resumes

    stopping.says(lambda: "the run had not begun")
    resumes: bool = by_main(take)
    output.documents.when_stopped = None  # from here on the progress of the run says it
    printing.part.keep_log_in(os.fspath(checkpointer.save_dir))
    return resumes
