"""Copies a state into memory: at once what a forward pass may change, the rest during training."""

import ctypes
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from isal import isal_zlib

from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.formats.torch.writer import on_cpu
from marlin_ckpt.saving.copying.device import DeviceCopies, Target
from marlin_ckpt.saving.copying.staging import Copy, Copying, Watched, make, tasks
from marlin_ckpt.saving.writing.content import Piece
from marlin_ckpt.storage.threads import in_order

_WORTH_THREADS_BYTES = 64 << 20  # of copies that the caller waits for


@dataclass(slots=True)
class Snapshot:
    """A state that is being copied into memory.

    Attributes:
        copying: the copies within this process's memory.
        device_copies: the copies from devices.
        stall_s: how long the caller has waited so far, in seconds.
        copy_s: how long the thread in the background has copied.
    """

    copying: Copying
    device_copies: DeviceCopies
    stall_s: float = 0.0
    copy_s: float = 0.0

    def before_change(self) -> None:
        """Finishes the copies; called before any tensor may change."""
        began = time.perf_counter()
        self.device_copies.before_change()
        self.copying.settle()
        self.stall_s += time.perf_counter() - began

    def copy_behind(self) -> None:
        """Finishes the copies on another thread than the caller's."""
        self.copying.complete()
        self.device_copies.wait()


def take(
    pieces: Iterable[Piece], image: memoryview, owned: Mapping[int, list[torch.Tensor]], *, is_checked: bool
) -> Snapshot:
    """Copies at once what may change before the next optimizer step; the rest is left to the snapshot.

    Args:
        pieces: of the state.
        image: the memory that they go to.
        owned: the tensors that nothing but an optimizer's step changes, by the identity of their storages.
        is_checked: also compare checksums of the source and the copy; what is on a device is then copied at
            once, since the processor cannot read it.
    """
    start = ctypes.addressof(ctypes.c_char.from_buffer(image)) if image else 0
    now: list[Copy] = []
    late: list[Copy] = []
    device_now: list[Target] = []
    device_late: list[Target] = []
    watched: list[Watched] = []
    held = []
    sums: dict[str, tuple[memoryview, int]] = {}
    for key, storage, first, size, at in pieces:
        owners = owned.get(storage._cdata, [])  # noqa: SLF001
        if storage.device.type == "cuda":
            is_late = bool(owners) and not is_checked
            (device_late if is_late else device_now).append((image[at : at + size], storage, first))
            owners = owners if is_late else []
        elif owners:
            source = storage.data_ptr() + first
            late.append(Copy(start + at, source, size))
            if is_checked:
                sums[key] = image[at : at + size], isal_zlib.crc32(memory(source, size))
        else:
            local = on_cpu(storage)
            held.append(local)
            now.append(Copy(start + at, local.data_ptr() + first, size))
        watched += [Watched(key, tensor, tensor._version) for tensor in owners]  # noqa: SLF001
    at_once = DeviceCopies(device_now)
    _copy_at_once(now)
    at_once.wait()

    def differ() -> list[str]:
        return [key for key, (copied, crc32) in sums.items() if isal_zlib.crc32(copied) != crc32]

    return Snapshot(Copying(late, watched, differ), DeviceCopies(device_late))


def _copy_at_once(copies: list[Copy]) -> None:
    """Makes copies; after an interrupt, or several, none is under way, since the memory is reused."""
    in_turn = map if sum(one.size_bytes for one in copies) < _WORTH_THREADS_BYTES else in_order
    for _ in in_turn(make, tasks(copies)):
        pass
