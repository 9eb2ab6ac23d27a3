"""Signals that ask a run to stop, or to save; imports no torch, so that none is missed while that loads."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.operations import launched

STOPS = (signal.SIGTERM, signal.SIGINT)
SAVES = signal.SIGUSR1  # what SLURM's --signal=USR1@60 sends a minute before the time is up
_SHOW_CURSOR = b"\x1b[?25h"  # DECTCEM; a progress bar hides it


class Preempted(SystemExit):
    """A signal stopped the training, and the state was saved. It ends the process unless it is caught.

    Attributes:
        signal: the signal.
        path: the durable file that holds the state; None if nothing was saved.
        code: the exit code, 128 + the signal's number: 143 for SIGTERM, 130 for SIGINT.
    """

    def __init__(self, number: int, path: str | None) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)
        self.path = path


class Signals:
    """What signals have asked for; the handlers only set it.

    Attributes:
        stop: the signal that asks to stop, or 0.
        save: whether a save is asked for.
        at_once: called before a second signal ends the process.
    """

    def __init__(self) -> None:
        self.stop = 0
        self.save = False
        self.at_once: Callable[[], None] = lambda: None
        self._raises = False

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        """Notes a signal; a second one that asks to stop ends the process at once."""
        if number == SAVES:
            self.save = True
            return
        if self._raises:
            raise Preempted(number, None)
        if self.stop:
            if os.isatty(2):
                os.write(2, _SHOW_CURSOR)
            signal.signal(number, signal.SIG_DFL)  # a third one does not wait for what this one does
            self.at_once()
            os.kill(os.getpid(), number)
        self.stop = number

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """A context in which nothing has begun that could be saved: what asks to stop, or has asked, ends it.

        Raises:
            Preempted: a signal asks to stop.
        """
        self._raises = True
        try:
            if self.stop:
                raise Preempted(self.stop, None)
            yield
        finally:
            self._raises = False


_listening: list[Signals] = []


@contextlib.contextmanager
def listening(*, really: bool = True) -> Iterator[Signals]:
    """Handles SIGTERM, SIGINT and SIGUSR1 until the context ends: they set what is yielded, and nothing more.

    A context inside another yields the same object. Where handlers are not wanted, or cannot be set because
    this is not the main thread, signals keep their effect.
    """
    asked = _listening[0] if really and _listening else Signals()
    if not really or _listening or threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before: dict[int, Any] = {}
    _listening.append(asked)
    try:
        for number in (*STOPS, SAVES):
            # What is ignored stays so: nohup, and a shell's background jobs.
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, asked.handle)
        yield asked
    finally:
        for one, handler in before.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)
        _listening.clear()


def compare_grace(args: TrainerArguments, save_s: float | None, logger: logging.Logger) -> bool:
    """Warns where a save takes longer than the time that a machine leaves after a signal.

    Args:
        args: the trainer's.
        save_s: how long a save took, in seconds; None where that is not known.
        logger: what warns.

    Returns:
        whether it has warned.
    """
    is_too_long = args.handle_signals and save_s is not None and save_s > args.preempt_grace_seconds
    if is_too_long:
        logger.warning(
            "A save took %.0f s the last time, longer than preempt_grace_seconds (%g): after a signal, "
            "the machine may be gone before the state is saved.",
            save_s,
            args.preempt_grace_seconds,
        )
    return is_too_long


def compare_shutdown(args: TrainerArguments, logger: logging.Logger) -> None:
    """Warns where torchrun kills its processes before the time that the arguments count on is over.

    Args:
        args: the trainer's.
        logger: what warns.
    """
    left_s = launched.shutdown_s()
    if args.handle_signals and left_s is not None and left_s < args.preempt_grace_seconds:
        logger.warning(
            "torchrun kills its processes %g s after a signal, and preempt_grace_seconds is %g: "
            "start it with --shutdown-timeout %.0f",
            left_s,
            args.preempt_grace_seconds,
            args.preempt_grace_seconds,
        )
