"""Saves states: before the call returns, or in the background."""

import contextlib
import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from marlin_ckpt.distributed.failures import together, told_by_main
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import MarlinError, StorageError
from marlin_ckpt.formats.torch.writer import Written
from marlin_ckpt.naming import Kind
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.saving.background import Background, take_frames
from marlin_ckpt.saving.copying.arena import Arena
from marlin_ckpt.saving.copying.awaited import Awaited
from marlin_ckpt.saving.copying.owners import KnownOptimizers, stepping
from marlin_ckpt.saving.copying.snapshot import Snapshot, take
from marlin_ckpt.saving.copying.staging import Watched
from marlin_ckpt.saving.job import Form, Job
from marlin_ckpt.saving.turn import Turn
from marlin_ckpt.saving.writing.choosing import Choosing
from marlin_ckpt.saving.writing.content import Image
from marlin_ckpt.saving.writing.crew import Crew
from marlin_ckpt.storage.paths import absolute

_T = TypeVar("_T")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MOST_REPORTS = 1000  # that are kept for a caller who may never take them


class _Moved(MarlinError):  # noqa: N818 - it ends no program
    """A tensor has changed while it was copied."""


class Engine:
    """Saves one state at a time. Where ranks save together, each calls the same, and what fails fails at all.

    Attributes:
        reports: of the saves that are durable and that nobody has asked for yet.
        pace: what the saves have cost.
        turn: held by whoever calls `save`.
        crew: the ranks that save together, unless a save has its own.
    """

    def __init__(
        self, logger: logging.Logger, *, is_together: bool | None = False, crew: Crew | None = None
    ) -> None:
        """Takes what logs, whether the ranks of a process group save together, and these if they have met."""
        self.reports: deque[SaveReport] = deque(maxlen=_MOST_REPORTS)
        self.crew = crew or Crew(is_together=is_together)
        self._choosing = Choosing(self.crew)
        self._logger = logger
        self._arena = Arena()
        self._background = Background(logger)
        self.turn = Turn(self._background.is_here)
        self._earlier: BaseException | None = None
        self._awaited = Awaited(is_saving=self._background.is_busy)
        self.pace = self._awaited.pace
        self._optimizers = KnownOptimizers(self._awaited.before_step)
        self._may_overlap = True
        self._warned_of: set[str] = set()

    def form(self, state: Any, layout: str = "file") -> Form:
        """The form that a state is saved in; all ranks call this. See `Choosing.form`."""
        return self._choosing.form(state, layout)

    def register(self, *optimizers: torch.optim.Optimizer) -> None:
        """Names optimizers before their first step, and watches for steps of all optimizers."""
        self._optimizers.watch()
        self._optimizers.known.update(optimizers)

    def save(self, job: Job) -> bool:
        """Saves a state, or copies it and saves the copy in the background.

        Returns:
            False where it is skipped, since the save before it is still under way.

        Raises:
            UnsavableStateError: the state cannot be pickled.
            StorageError: the file cannot be written, or there is no memory for the copy. What the save before
                it has failed with in the background is not raised here, but by `raise_earlier`.
            RankError: another rank has ended, does not come in time, or saves something else.
        """
        crew = job.crew or self.crew
        if job.may_skip and crew.here.most(self._background.is_busy())[0]:
            if crew.here.is_main:
                self._logger.info("Skipped %s: the save before it is still under way.", job.path)
            return False
        began = time.perf_counter()
        self._awaited.wait()
        self._earlier = self._background.ended() or self._earlier
        self.pace.save_began()
        try:
            self._earlier = crew.meet(job.path, self._earlier)
            if job.how.async_save:
                self._save_behind(job, crew, began)
            else:
                self._save_now(job, crew.here, began)
        except BaseException:
            if job.how.async_save:  # else as below
                self.pace.save_ended(time.perf_counter() - began)
            if self._earlier is not None:
                self._logger.error("The save before this one failed, too: %s", str(self._earlier))  # noqa: TRY400
                self._earlier = None
            raise
        finally:
            if not job.how.async_save:
                self.pace.save_ended(time.perf_counter() - began)
            self.pace.waited(time.perf_counter() - began)
        return True

    def raise_earlier(self) -> None:
        """Raises what the save before the last failed with in the background, unless that was done before.

        The new state comes first: an error of a disk that is well again must not cost a save.
        """
        error, self._earlier = self._earlier, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame, and so the callers' states

    def take_reports(self) -> list[SaveReport]:
        """The reports of the files that have become durable since the last call, at most the last 1,000."""
        taken = []
        with contextlib.suppress(IndexError):  # another thread may take them, too
            while True:
                taken.append(self.reports.popleft())
        return taken

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Lets the save under way end, and no other begin while the context lasts.

        What that save has failed with is left to `raise_earlier`.

        Raises:
            StorageError: EDEADLK, as `Turn.taken`.
        """
        self._awaited.wait()
        with self.turn.taken():
            self._earlier = self._background.ended() or self._earlier
            yield

    def wait(self) -> None:
        """Waits for the save under way.

        Raises:
            MarlinError: what it failed with, unless that was raised before.
            StorageError: EDEADLK, as `Turn.taken`.
        """
        self._let_end()
        self.raise_earlier()

    def close(self) -> None:
        """Waits as `wait` does, and gives the memory back.

        Raises:
            MarlinError: what the save under way failed with; the memory is given back all the same.
            StorageError: EDEADLK, as `Turn.taken`; then, as after an interrupt, nothing is given back, since
                the next step may still have to wait for a copy.
        """
        self._let_end()
        with self.turn.taken():
            self._awaited.wait()  # for the copy of a save that another thread has begun meanwhile
            self._arena.free()
            self._optimizers.forget()
        self.raise_earlier()

    def _let_end(self) -> None:
        self._awaited.wait()
        with self.turn.taken():  # another thread's save has not begun yet what is to be waited for
            pass
        self._earlier = self._background.ended() or self._earlier

    def _save_now(self, job: Job, here: Ranks, began: float) -> None:
        content = self._choosing.content(job, job.path)
        written = self._written(job, here, content.write)
        self._report(job, here, written, time.perf_counter() - began, 0.0)

    def _save_behind(self, job: Job, crew: Crew, began: float) -> None:
        # The program may change its working directory meanwhile.
        here, image = crew.here, self._choosing.content(job, absolute(job.path)).image()
        memory = self._together(here, lambda: self._room(image))
        image.fill(memory)
        try:
            staged = self._together(here, lambda: self._begin_copy(job, image, memory))
            started = time.perf_counter()
            staged.stall_s = started - began
            self._background.start(lambda: self._finish(job, image, memory, staged), job.path)
            staged.stall_s += time.perf_counter() - started
        except BaseException:
            if not self._background.is_busy():  # else an interrupt came when the copy was being made
                self._awaited.give_up()
            raise

    def _room(self, image: Image) -> memoryview:
        """Takes memory for a copy, which is kept for the next save."""
        if not image.image_bytes:
            return memoryview(b"")
        before = self._arena.size_bytes
        room = self._arena.room(image.image_bytes, is_pinned="cuda" in image.pieces.kinds)
        if self._arena.size_bytes != before:
            taken = f"{image.size_bytes:,} bytes"
            self._logger.info("Asynchronous saves keep a copy of the state in memory: %s.", taken)
        return room

    def _begin_copy(self, job: Job, image: Image, memory: memoryview) -> Snapshot:
        """Begins the copy of a state."""
        is_watching = self._optimizers.watch()  # before the copy begins: what steps from now on waits for it

        def stage() -> Snapshot:
            # Inside a step, of its closure or of a hook, its tensors change without another hook, and kernels
            # of fused optimizers change them without autograd's counting it.
            overlaps = is_watching and job.how.overlap and self._may_overlap
            can_wait = overlaps and threading.get_ident() not in stepping()
            owned = self._optimizers.tensors(image.pieces.kinds) if can_wait else Watched()
            return take(image.pieces, memory, owned, is_checked=job.how.check_overlap)

        return self._awaited.begin(image.pieces.storages, job.path, stage)

    def _finish(self, job: Job, image: Image, memory: memoryview, staged: Snapshot) -> None:
        """Finishes the copy and writes it, in the background."""
        try:
            self._write_copy(job, image, memory, staged)
            self._arena.settle()
        except Exception as error:
            if job.on_error is None:
                raise
            take_frames(error)
            job.on_error(error)

    def _write_copy(self, job: Job, image: Image, memory: memoryview, staged: Snapshot) -> None:
        began = time.perf_counter()
        behind = (job.crew or self.crew).behind

        def check() -> None:
            staged.copying.wait_for_caller()
            if moved := staged.copying.settle():
                raise _Moved(", ".join(name for key in moved for name in image.names(key)))

        try:
            self._together(behind, staged.copy_behind)
            staged.copy_s, sums = time.perf_counter() - began, staged.sums()
            written = self._written(job, behind, lambda: image.write(memory, check, sums))
        except _Moved as error:
            self._may_overlap = False
            when = "outside of an optimizer's step while it was copied"
            what = f"not written, since {error.what} changed {when}"
            hint = "from now on saves copy everything before they return, as with overlap: false"
            if not job.gives_up:
                raise StorageError(what, job.path, f"save it again; {hint}", errno=errno.EBUSY) from None
            if behind.is_main:
                self._logger.warning("%s was %s. F%s.", job.path, what, hint[1:])
            job.on_given_up(what)
        else:
            self._report(job, behind, written, staged.stall_s, staged.copy_s)
        finally:
            self.pace.save_ended(staged.stall_s)

    def _written(self, job: Job, ranks: Ranks, write: Callable[[], Written]) -> Written:
        """Writes; a second time if the disk was full and removing old checkpoints has made room."""
        try:
            return write()
        except StorageError as error:
            if error.errno not in _FULL or not told_by_main(ranks, job.make_room):
                raise
            return write()

    def _together(self, ranks: Ranks, work: Callable[[], _T]) -> _T:
        """Does work at every rank; where it fails at one, it fails at all."""
        return work() if ranks.world_size == 1 else together(ranks, work)

    def _report(self, job: Job, ranks: Ranks, written: Written, stall_s: float, copy_s: float) -> None:
        if ranks.is_main and (new := set(written.refused) - self._warned_of):
            self._warned_of |= new
            what = "%s will need weights_only: false to load, because it holds %s"
            self._logger.warning(what, job.path, ", ".join(written.refused))
        report = SaveReport(
            path=job.path,
            is_model=job.manifest.kind is Kind.MODEL,
            index=job.manifest.index,
            size_bytes=written.size_bytes,
            stall_s=stall_s,
            copy_s=copy_s,
            write_s=written.write_s,
            sync_s=written.sync_s,
            metrics=dict(job.manifest.metrics),
        )
        self._logger.debug("Saved %s", report)
        self.reports.append(report)
        self._together(ranks, lambda: job.on_durable(report))
