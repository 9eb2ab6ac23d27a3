"""Saves the states of a run, and follows each save until it is durable."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
from marlin_ckpt.checkpointer.hooks import hooks_of
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.training import preemption, run_events
from marlin_ckpt.training.observer import TrainerObserver
from marlin_ckpt.training.preemption import STOPS, Preempted, Signals

Report = tuple[str, int, SaveReport | None]  # path, index, and what the save took
# How far a run is: the epochs, global steps and batches done. At the same place its state is the same.
Place = tuple[int, ...]
Save = Callable[[], str | None]  # saves a checkpoint and returns its path


class Asked(NamedTuple):
    """What all ranks of a run have agreed on at one place of it.

    Attributes:
        stop: the signal that asks one of them to stop, or 0.
        save: whether one of them is asked to save.
        is_due: whether rank 0 finds that a save is due.
        is_late: whether rank 0 finds the last checkpoint too old.
        loss: the mean of the losses of all.
    """

    stop: int = 0
    save: bool = False
    is_due: bool = False
    is_late: bool = False
    loss: float = 0.0


class Saves:
    """What of one run has been saved, and what of that is durable.

    The checkpointer is an argument of each method, since a trainer's may be replaced.

    Attributes:
        signals: what has been asked for.
    """

    def __init__(self, observer: TrainerObserver | None, ranks: Ranks) -> None:
        """Takes who follows the progress at this rank, and the ranks, which agree on when to save."""
        self.signals = Signals()
        self._observer = observer
        self._ranks = ranks
        self._logger = get_logger(__name__)
        self._last: tuple[Place, str | None] = ((), None)
        self._durable: str | None = None
        self._is_last = False
        self._began_s = time.monotonic()
        self._compare: Callable[..., object] | None = None  # of the first save with what a signal leaves

    @contextlib.contextmanager
    def running(
        self,
        args: TrainerArguments,
        checkpointer: AbstractCheckpointer,
        logger: logging.Logger,
        place: Callable[[], Place],
    ) -> Iterator[None]:
        """Trains in the checkpointer's context, and listens to signals; what `is_late` measures begins now.

        The checkpointer gets a report when the training begins, and of how it ends.

        Args:
            args: the trainer's.
            checkpointer: what saves.
            logger: warns where a save takes longer than a signal leaves time for, and tells of failures.
            place: says how far the run is.
        """
        self._logger = logger
        listening = preemption.listening(really=args.handle_signals)
        reporting = run_events.reporting(checkpointer, args, place)
        with hooks_of(checkpointer).running(), listening as self.signals, reporting:
            self._began_s = time.monotonic()
            # A first run does not know how long a save takes, until it has made one.
            known_s = hooks_of(checkpointer).usual_save_s()
            if not preemption.compare_grace(args, known_s, logger):
                self._compare = partial(preemption.compare_grace, args, logger=logger)
            if self._ranks.is_main:
                preemption.compare_shutdown(args, logger)
            yield

    def is_late(self, minutes: float | None) -> bool:
        """Whether the last checkpoint is older than so many minutes; never for None."""
        return minutes is not None and time.monotonic() - self._began_s >= minutes * 60

    def agree(
        self,
        is_due: Callable[[], bool] = lambda: False,
        minutes: float | None = None,
        loss: float = 0.0,
    ) -> Asked:
        """Agrees with the other ranks on what they are asked for, so that all save and stop at one place.

        Args:
            is_due: whether a save is due; asked at rank 0.
            minutes: after which the last checkpoint is too old, by the clock of rank 0.
            loss: of this rank.
        """
        signals, is_main = self.signals, self._ranks.is_main
        stops = [float(signals.stop == number) for number in STOPS]
        asked = bool(signals.save), is_main and is_due(), is_main and self.is_late(minutes)
        found = self._ranks.total(*stops, *map(float, asked), loss)
        stop = next((int(number) for number, count in zip(STOPS, found, strict=False) if count), 0)
        save, due, late, loss = found[len(stops) :]
        return Asked(stop, bool(save), bool(due), bool(late), loss / self._ranks.world_size)

    def measured(
        self, checkpointer: AbstractCheckpointer, place: Place, metrics: Mapping[str, float]
    ) -> None:
        """Reports the metrics after an epoch.

        Args:
            checkpointer: what saves.
            place: how far the run is.
            metrics: names and numbers.
        """
        epoch, step, *_ = place
        if self._observer is not None:
            self._observer.on_epoch_end(epoch, metrics)
        facts = {"epoch": epoch, "step": step, "metrics": dict(metrics)}
        hooks_of(checkpointer).on_run_event("measured", facts)

    @contextlib.contextmanager
    def last_one(self) -> Iterator[None]:
        """What is saved in the context is the last of a run, and need not be saved if it has been."""
        self._is_last = True
        try:
            yield
        finally:
            self._is_last = False

    def held(self, checkpointer: AbstractCheckpointer, place: Place) -> str | None:
        """The path of the last save of a run if it has been made, durable; else None.

        What it has failed with in the background is logged: it is made again.

        Args:
            checkpointer: what saves.
            place: how far the run is.
        """
        at, path = self._last
        if not self._is_last or at != place:
            return None
        self._tell(self._ended_before(checkpointer))
        return path if path == self._durable else None

    def save(
        self, checkpointer: AbstractCheckpointer, state: Checkpoint, index: int, place: Place, force: bool
    ) -> str | None:
        """Saves a checkpoint; returns the path, as the checkpointer does.

        Args:
            checkpointer: what saves.
            state: of the run.
            index: what to save it under.
            place: how far the run is.
            force: save whatever the checkpointer's rules for when to save say.
        """
        self._durable = None
        hooks_of(checkpointer).on_run_event("saving", {"step": place[1]})
        path = checkpointer.save(state, index, force)
        if path:
            self._last, self._began_s = (place, path), time.monotonic()
        self.report(checkpointer, path, index)
        return path

    def report(self, checkpointer: AbstractCheckpointer, path: str | None = None, index: int = 0) -> None:
        """Reports to the observer what has become durable.

        Args:
            checkpointer: what saves.
            path: of the file that it has just saved; None where it has saved none.
            index: of that file.
        """
        reports = hooks_of(checkpointer).take_reports()
        durable: list[Report] = [(one.path, one.index, one) for one in reports or ()]
        if reports is None and path:  # a checkpointer without reports returns when the file is durable
            durable.append((path, index, None))
        for one in durable:
            self._durable = one[0]
            if self._observer is not None:
                self._observer.on_save(*one)
        if durable and self._compare is not None:
            self._compare(hooks_of(checkpointer).usual_save_s())
            self._compare = None

    def settle(self, checkpointer: AbstractCheckpointer) -> None:
        """Waits until everything that was saved is durable, and reports it.

        Raises:
            MarlinError: what a save failed with in the background.
        """
        hooks_of(checkpointer).wait()
        self.report(checkpointer)

    def answer(
        self, checkpointer: AbstractCheckpointer, place: Place, save: Save, asked: Asked | None = None
    ) -> None:
        """Does what signals have asked for: saves, unless the last save holds this state, and stops.

        What a save before that has failed with comes afterwards: it is raised, or where the run stops logged.

        Args:
            checkpointer: what saves.
            place: how far the run is.
            save: saves a checkpoint and returns its path.
            asked: what the ranks have agreed on here; None: they have not yet.

        Raises:
            Preempted: a signal has asked to stop.
            MarlinError: what a save failed with.
        """
        asked = asked or self.agree()
        if not (asked.stop or asked.save):
            return
        run_events.report_signal(checkpointer, asked.stop, place)
        if asked.save:
            self.signals.save = False
        earlier = self._ended_before(checkpointer)
        try:
            self._save_here(checkpointer, place, save)
        except MarlinError:
            self._tell(earlier)
            raise
        if asked.stop:
            self._tell(earlier)
            raise Preempted(asked.stop, self._durable if self._last[0] == place else None)
        if earlier is not None:
            raise earlier

    def _save_here(self, checkpointer: AbstractCheckpointer, place: Place, save: Save) -> None:
        at, path = self._last
        if at == place and path == self._durable:
            return
        for _ in range(2):  # one that was begun in the background may be given up, or fail: see `overlap`
            path = save()
            self.settle(checkpointer)
            if path is None or path == self._durable:
                return

    def _tell(self, earlier: MarlinError | None) -> None:
        if earlier is not None:
            self._logger.error("The save before the last one failed: %s", str(earlier))

    def _ended_before(self, checkpointer: AbstractCheckpointer) -> MarlinError | None:
        """What the save under way failed with, once it has ended; the state that there is now comes first."""
        try:
            self.settle(checkpointer)
        except MarlinError as error:
            return error
        return None
