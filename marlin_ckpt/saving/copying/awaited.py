"""The copy of a state that the next optimizer step has to wait for, and the steps that a copy waits for."""

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.storage import UntypedStorage

from marlin_ckpt.errors import StorageError
from marlin_ckpt.formats.torch.memory import identity
from marlin_ckpt.saving.copying.owners import held_by, local_of, stepping
from marlin_ckpt.saving.copying.snapshot import Snapshot
from marlin_ckpt.saving.pace import Pace
from marlin_ckpt.saving.turn import Turn

_PATIENCE_S = 5.0  # how long to wait for another thread's step
_LOOK_AGAIN_S = 0.01  # between two looks whether it has ended


@dataclass
class Awaited:
    """The copy, one at most, that the next optimizer step has to wait for.

    Attributes:
        is_saving: whether a save is under way.
        pace: is told of each step, and of how long it waited.
    """

    is_saving: Callable[[], bool]
    pace: Pace = field(default_factory=Pace)
    # Held while a copy is begun or waited for; a step on another thread waits for it too.
    _turn: Turn = field(default_factory=Turn)
    _staged: deque[Snapshot] = field(default_factory=deque)
    _process: int = field(default_factory=os.getpid)

    def before_step(self) -> None:
        """Notes the time of the step, and waits for the copy."""
        if _is_being_captured():
            return
        with self._turn.taken():
            self.pace.before_step(is_saving=self.is_saving())
            self._settle()

    def wait(self) -> None:
        """Waits for the copy.

        Raises:
            StorageError: EDEADLK, as `Turn.taken`.
        """
        with self._turn.taken():
            self._settle()

    def _settle(self) -> None:
        if self._process != os.getpid():  # a child has neither the copying thread nor the copy's memory
            self._staged.clear()
            self._process = os.getpid()
        while self._staged:
            began = time.perf_counter()
            self._staged[0].before_change()
            self._staged.popleft()  # only now: an interrupted wait is taken up by the next one
            self.pace.waited(time.perf_counter() - began)

    def begin(self, storages: Sequence[UntypedStorage], path: str, take: Callable[[], Snapshot]) -> Snapshot:
        """Begins a copy while no other thread is inside the step of an optimizer of the state.

        Args:
            storages: that it is copied from.
            path: of the file, for messages.
            take: begins the copy; steps that other threads begin meanwhile wait for it.

        Raises:
            StorageError: EBUSY, another thread's step goes on for too long.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            with self._turn.taken():
                if not _is_stepped_by_others(storages):
                    staged = take()
                    self._staged.append(staged)
                    return staged
            if time.monotonic() > deadline:
                what = "refused: another thread is inside the step of an optimizer of this state"
                raise StorageError(what, path, "save between two steps", errno=errno.EBUSY)
            time.sleep(_LOOK_AGAIN_S)

    def give_up(self) -> None:
        """Lets no step wait for the copy any more, once no device writes into its memory."""
        with self._turn.taken():
            for staged in self._staged:
                staged.device_copies.wait()
            self._staged.clear()


def _is_being_captured() -> bool:
    """Whether the step is recorded into a CUDA graph: nothing changes, and it may not wait for a copy."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    return torch.cuda.is_current_stream_capturing()


def _is_stepped_by_others(storages: Sequence[UntypedStorage]) -> bool:
    here = threading.get_ident()
    others = [one for thread, found in stepping().items() if thread != here for one in found]
    copied = frozenset(map(identity, storages)) if others else frozenset()
    return any(
        tensor.layout is torch.strided and identity(local_of(tensor).untyped_storage()) in copied
        for optimizer in others
        for tensor in held_by(optimizer)
    )
