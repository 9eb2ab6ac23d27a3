"""What a process prints that is one rank of a run: rank 0 as one that is alone, the others next to nothing.

Each rank keeps a log of its own. The error that ends a run is printed once, by the rank that met it first.
"""

import contextlib
import functools
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO, cast

import typer

from marlin_ckpt import naming
from marlin_ckpt.cli import log, output, widths
from marlin_ckpt.errors import ConfigError, Fault, RankError
from marlin_ckpt.escaping import escape
from marlin_ckpt.operations import launched

if TYPE_CHECKING:
    from marlin_ckpt.cli.ranks.rank_log import RankLog
    from marlin_ckpt.distribution import DistributedTrainingArguments

_PART_S = 5.0  # for which a rank waits for others that end with the same error
_CLEAR = "\r\x1b[K"  # of a terminal: the line on which the bar of rank 0 is


class Part:
    """The part of this process in what the command prints; alone it prints all.

    Attributes:
        is_main: whether it is rank 0, or alone.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self._found = launched.launched()
        self._arguments = arguments
        self.is_main = self._found is None or self._found.global_rank == 0
        self._is_many = False
        self._directory = ""
        self._terminal: TextIO | None = None  # where stderr is another stream now
        self._before_end: list[Callable[[], None]] = []

    @functools.cached_property
    def where(self) -> "DistributedTrainingArguments":
        """Which process of the run this is."""
        from marlin_ckpt.distribution import DistributedTrainingArguments

        return self._found or DistributedTrainingArguments()

    @functools.cached_property
    def _log(self) -> "RankLog":
        from marlin_ckpt.cli.ranks.rank_log import RankLog

        return RankLog(self.where.global_rank)

    def begin(self) -> None:
        """Prints from now on what this process has to print; called by a command that many run together."""
        self._is_many = self._is_of_many
        if not self._is_many:
            return
        log.add(_Dated(self._log))
        if self.is_main:
            return
        # What C libraries such as NCCL print, and Python where it crashes, reaches the terminal all the same.
        self._terminal = sys.stderr
        log.hide()
        log.add(_Marked(_Stream(sys.stderr, self._mark)))
        sys.stderr = cast("TextIO", _Stream(self._log))
        output.documents.is_printed = True  # by rank 0

    def check(self, backend: str, *, is_for_many: bool) -> None:
        """Refuses to train in one process what is to be trained in many, and the other way round.

        Args:
            backend: `trainer.backend`.
            is_for_many: whether that trains in many processes.

        Raises:
            ConfigError: this is one process, or one of many, and the backend is for the other case.
        """
        if is_for_many and self._found is None:
            import shlex

            what = f"{backend} trains in several processes, and this is one by itself"
            hint = f"start them by: {launched.COMMAND} {shlex.join(self._arguments)}"
        elif self._is_many and not is_for_many:
            what = f"{backend} trains in one process, and {self.where.world_size} were started"
            hint = "set it to ddp or fsdp2, or start marlin-ckpt without torchrun"
        else:
            return
        raise ConfigError([Fault("trainer.backend", what)], hint)

    def keep_log_in(self, directory: str) -> None:
        """Keeps the log in our own folder of a directory, from when that is there.

        Args:
            directory: where the run saves, whose lease it has; an object store keeps no log.
        """
        from marlin_ckpt.cli.ranks import rank_log
        from marlin_ckpt.urls import is_url

        if is_url(directory):
            return
        start = launched.launch()
        is_new = start is None or not start.restarts
        if self.is_main and is_new:
            rank_log.sweep(directory, self.where.world_size if self._is_many else 0)
        if self._is_many:
            self._directory = directory
            self._log.keep_in(directory, is_new=is_new)

    @contextlib.contextmanager
    def heard_out(self) -> Iterator[None]:
        """Lets SIGTERM wait: torchrun sends it to all others once a rank has died, while they say so."""
        if not self._is_many or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    @contextlib.contextmanager
    def failing(self, error: BaseException) -> Iterator[None]:
        """Shows on the terminal what is printed meanwhile, unless another rank has shown its error.

        The traceback goes to the log of this rank in any case.

        Args:
            error: that has ended the command.
        """
        is_usage = isinstance(error, typer.TyperException)  # which is met before a command begins
        if not (self._is_many or (is_usage and self._is_of_many)):
            yield
            return
        is_stop = isinstance(error, (KeyboardInterrupt, SystemExit))
        if not is_stop:
            self._log.write("".join(traceback.format_exception(error)))
        is_of_all = is_stop or getattr(error, "is_of_all_ranks", False)
        is_shown = (self.is_main or not is_of_all) and (is_stop or self._is_first())
        before, terminal = sys.stderr, self._terminal or sys.stderr
        sys.stderr = cast("TextIO", _Stream(terminal, self._mark) if is_shown else _Stream(self._log))
        try:
            yield
            # Of a wrong setting, the logs say no more than the error.
            if self._directory and not is_stop and getattr(error, "exit_code", 1) != ConfigError.exit_code:
                where = os.path.join(self._directory, naming.OWN_DIRECTORY, "rank_*.log")
                output.talk(f"hint: what each rank has said is in {escape(where)}")
        finally:
            sys.stderr = before
            self._part_from_others(error)

    def before_end(self, work: Callable[[], None]) -> None:
        """Takes what is done once all has been printed, and may log."""
        self._before_end.append(work)

    def end(self) -> None:
        """Does what was left for the end, gives back the streams, and ends the log."""
        for work in self._before_end:
            work()
        if self._terminal is not None:
            sys.stderr = self._terminal
        if "_log" in vars(self):
            self._log.close()

    @property
    def _is_of_many(self) -> bool:
        return self._found is not None and self._found.world_size > 1

    @property
    def _mark(self) -> str:
        return "" if self.is_main else f"[rank {self.where.global_rank}] "

    def _is_first(self) -> bool:
        """Whether no other rank has met an error; before that can be asked, it is one of each machine."""
        launch: Any = sys.modules.get("marlin_ckpt.distributed.launch")
        can_ask = launch is not None and (launch.is_joined() or launched.has_store())
        return launch.is_first() if can_ask else self.is_main or self.where.local_rank == 0

    def _part_from_others(self, error: BaseException) -> None:
        """Where this rank has failed alone, it does not wait for the others at its end.

        It does where all have failed alike: torchrun ends the others as soon as one has ended, and rank 0 may
        not have printed the error yet.
        """
        launch: Any = sys.modules.get("marlin_ckpt.distributed.launch")
        from marlin_ckpt.training.preemption import Preempted

        if launch is None or isinstance(error, Preempted):
            return
        if getattr(error, "is_of_all_ranks", False) and not isinstance(error, RankError):
            launch.end(_PART_S)
        launch.abandon()


part = Part()  # of the command that runs; `main` makes a new one for each


@contextlib.contextmanager
def taking_part(arguments: Sequence[str]) -> Iterator[None]:
    """Gives a command its part; at the end the streams are those of before.

    Args:
        arguments: of the command line.
    """
    global part  # noqa: PLW0603 - as `output.documents`, there is one command at a time
    part = Part(arguments)
    try:
        yield
    finally:
        part.end()


class _Stream:
    """A stream of text that raises nothing where it cannot be written to, with a mark before each line."""

    encoding = "utf-8"

    def __init__(self, sink: Any, mark: str = "") -> None:
        self._sink, self._mark, self._is_within = sink, mark, False

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            with contextlib.suppress(OSError, ValueError):
                self._sink.write(line if self._is_within else self._begun(line))
            self._is_within = not line.endswith("\n")
        return len(text)

    def _begun(self, line: str) -> str:
        """A line with its mark; on a terminal it is broken at blanks, and begins where a line begins."""
        from marlin_ckpt.cli.ranks.rank_log import RankLog

        marked = self._mark + line
        if isinstance(self._sink, RankLog) or not self._sink.isatty():
            return marked
        is_below_bar = self._mark and os.environ.get("TERM") != "dumb"
        return (_CLEAR if is_below_bar else "") + widths.fitted(marked, self._sink)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            self._sink.flush()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError("a rank's own log has no descriptor that others may use")


class _Dated(logging.Handler):
    """Writes into the log of this rank."""

    def __init__(self, sink: "RankLog") -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        self._sink.write(f"{when} {log.line(record)}\n")


class _Marked(logging.Handler):
    """Shows the warnings of another rank than 0 on the terminal."""

    def __init__(self, sink: _Stream) -> None:
        super().__init__(logging.WARNING)
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        self._sink.write(f"{log.line(record)}\n")
