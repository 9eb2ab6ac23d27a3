"""Reports to the checkpointer what happens in a training, for the history of the run."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
from marlin_ckpt.checkpointer.hooks import hooks_of
from marlin_ckpt.saving.about import in_words, lasting
from marlin_ckpt.training.preemption import SAVES, Preempted


@contextlib.contextmanager
def reporting(
    checkpointer: AbstractCheckpointer, args: TrainerArguments, place: Callable[[], tuple[int, ...]]
) -> Iterator[None]:
    """Reports that a training begins, and how the block ends.

    Args:
        checkpointer: gets the report.
        args: the trainer's.
        place: says how far the run is: the last epoch that is done, and the global steps.
    """
    report = hooks_of(checkpointer).on_run_event
    report("started", {"config": {"trainer": lasting(args)}, "world_size": _world_size()})

    def ended(how: str, error: str = "") -> None:
        epoch, step, *_ = place()
        report("ended", {"how": how, "error": error, "epochs": epoch + 1, "step": step})

    try:
        yield
    except (Preempted, KeyboardInterrupt):
        ended("stopped")
        raise
    except BaseException as error:
        ended("failed", in_words(error))
        raise
    ended("finished")


def report_signal(checkpointer: AbstractCheckpointer, stop: int, place: tuple[int, ...]) -> None:
    """Reports a signal that is being answered.

    Args:
        checkpointer: gets the report.
        stop: the signal that asks to stop; 0: one that asks to save.
        place: how far the run is.
    """
    name = signal.Signals(stop or SAVES).name
    hooks_of(checkpointer).on_run_event("signal", {"signal": name, "step": place[1]})


def _world_size() -> int:
    text = os.environ.get("WORLD_SIZE", "1")  # as torchrun sets it
    return int(text) if text.isascii() and text.isdigit() else 1
