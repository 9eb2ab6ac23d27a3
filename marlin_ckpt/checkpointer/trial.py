"""Measures what saves take on a disk, with the writer and the reader that a run has."""

from __future__ import annotations

import contextlib
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator

import torch

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.errors import StorageError
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.loading.load import Loader
from marlin_ckpt.loading.restoring import Restoration
from marlin_ckpt.naming import Kind
from marlin_ckpt.operations.advice import Figures
from marlin_ckpt.saving.saver import Job, Saver
from marlin_ckpt.saving.staging import available_bytes
from marlin_ckpt.storage.local.temporary import temporary_name

ROUNDS = 3
MOST_BYTES = 2_000_000_000  # more take longer and show no more: times grow with the size
_TENSORS = 200
_LEAST_BYTES = 4096  # of a tensor
_SPARE = 4  # the state, its copy and the restored one, and as much for others


def trial_bytes(size_bytes: int) -> int:
    """The size of the state to measure with, for one of a given size: less where memory or time is short."""
    available = available_bytes()
    room = MOST_BYTES if available is None else min(MOST_BYTES, available // _SPARE)
    return max(min(size_bytes, room), _LEAST_BYTES)


def measure(
    directory: PathText, size_bytes: int, on_bytes: Callable[[int], None] = lambda _: None
) -> Figures:
    """Saves a state of parameters a few times and restores it once.

    The files are named like temporary ones, so that nothing takes them for checkpoints, and are removed. What
    a killed trial leaves is removed by the next run that saves there.

    Args:
        directory: where to.
        size_bytes: of the state.
        on_bytes: called with each number of bytes written or read; `(ROUNDS + 2) * size_bytes` in all.

    Raises:
        StorageError: the disk has no room, say.
    """
    count = max(1, min(_TENSORS, size_bytes // _LEAST_BYTES))
    tensors = [torch.nn.Parameter(torch.rand(size_bytes // 4 // count)) for _ in range(count)]
    state = Checkpoint({str(number): tensor for number, tensor in enumerate(tensors)}, {}, {})
    logger = logging.getLogger(__name__)
    logger.setLevel(logging.WARNING)
    saver = Saver(logger)
    optimizer = torch.optim.SGD(tensors)
    saver.register(optimizer)
    arguments = DefaultCheckpointerArguments(async_save=True)
    about = Manifest(kind=Kind.CHECKPOINT, index=0, created="", run_id="", save_number=1)
    calls, saves, copies, processors = [], [], [], []
    try:
        with _removed_in_the_end(directory) as path:
            for _ in range(ROUNDS + 1):
                job = Job(arguments, path, state.payload(), about, must_be_made=True)
                began, used = time.perf_counter(), _background_s()
                saver.save(job)
                calls.append(time.perf_counter() - began)
                saver.wait()
                saves.append(time.perf_counter() - began)
                processors.append(_background_s() - used)
                copies.append(max(saver.reports.pop().stall_s - calls[-1], 0.0))
                on_bytes(size_bytes)
            restore_s = _restore_s(path, state, logger)
            on_bytes(size_bytes)
    finally:
        saver.close()
    # The first one takes fresh memory, which later ones do not.
    calls_s, saves_s, copies_s, processors_s = (
        statistics.median(one[1:]) for one in (calls, saves, copies, processors)
    )
    return Figures(
        size_bytes=size_bytes,
        save_s=saves_s,
        call_s=calls_s,
        copy_s=copies_s,
        processor_s=processors_s,
        restore_s=restore_s,
        cores=len(os.sched_getaffinity(0)),
    )


@contextlib.contextmanager
def _removed_in_the_end(directory: PathText) -> Iterator[str]:
    path = os.path.join(directory, temporary_name("trial"))
    try:
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _background_s() -> float:
    """The processor time that the other threads of this process have used, in seconds."""
    return time.process_time() - time.thread_time()


def _restore_s(path: str, live: Checkpoint, logger: logging.Logger) -> float:
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageError.of("cannot read", path, error) from error
    arguments = DefaultCheckpointerArguments(
        load_dir=os.path.dirname(path), load_filename=os.path.basename(path)
    )
    began = time.perf_counter()
    Loader(arguments, logger, Restoration(live)).load()
    return time.perf_counter() - began
