"""Measures what saves take on a disk, with the writer and the reader that a run has."""

import contextlib
import logging
import os
import statistics
import time
from collections.abc import Callable

import torch

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.errors import StorageError
from marlin_ckpt.escaping import OwnLogger
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.loading.load import CheckpointRestoration, Loader
from marlin_ckpt.naming import Kind
from marlin_ckpt.operations.advice import Figures
from marlin_ckpt.operations.memory import available_bytes
from marlin_ckpt.saving.engine import Engine
from marlin_ckpt.saving.job import How, Job
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


def measure(directory: PathText, size_bytes: int, on_bytes: Callable[[int], None]) -> Figures:
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
    logger = OwnLogger(__name__)
    logger.setLevel(logging.WARNING)
    engine = Engine(logger)
    optimizer = torch.optim.SGD(tensors)
    engine.register(optimizer)
    how = How(async_save=True)
    about = Manifest(kind=Kind.CHECKPOINT, index=0, created="", run_id="", save_number=1)
    rounds = []
    path = os.path.join(directory, temporary_name("trial"))
    with contextlib.closing(engine), contextlib.ExitStack() as at_end:
        at_end.callback(_remove, path)
        for _ in range(ROUNDS + 1):
            job = Job(path=path, state=state.payload(), manifest=about, how=how)
            began, used = time.perf_counter(), _background_s()
            engine.save(job)
            call_s = time.perf_counter() - began
            engine.wait()
            save_s, processor_s = time.perf_counter() - began, _background_s() - used
            copy_s = max(engine.reports.pop().stall_s - call_s, 0.0)
            rounds.append({"save_s": save_s, "call_s": call_s, "copy_s": copy_s, "processor_s": processor_s})
            on_bytes(size_bytes)
        restore_s = _restore_s(path, state, logger)
        on_bytes(size_bytes)
    # The first one takes fresh memory, which later ones do not.
    medians = {name: statistics.median(one[name] for one in rounds[1:]) for name in rounds[0]}
    cores = len(os.sched_getaffinity(0))
    return Figures(size_bytes=size_bytes, restore_s=restore_s, cores=cores, **medians)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):  # of a file that was not made; else the next run removes it
        os.unlink(path)


def _background_s() -> float:
    """The processor time that the other threads of this process have used, in seconds."""
    return time.process_time() - time.thread_time()


def _restore_s(path: str, live: Checkpoint, logger: logging.Logger) -> float:
    try:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        raise StorageError.of("cannot read", path, error) from error
    arguments = DefaultCheckpointerArguments(resume_from=path)
    began = time.perf_counter()
    Loader(arguments, logger, CheckpointRestoration(live)).load()
    return time.perf_counter() - began
