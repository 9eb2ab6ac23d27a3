"""Copies a state into memory: at once what a forward pass may change, the rest during training."""

import ctypes
import functools
import itertools
import operator
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from isal import isal_zlib
from torch.storage import UntypedStorage

from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.formats.torch.writer import on_cpu
from marlin_ckpt.saving.copying.device import DeviceCopies, Target
from marlin_ckpt.saving.copying.staging import Copies, Copying, Watched, chosen, make, split
from marlin_ckpt.saving.writing.content import Pieces
from marlin_ckpt.storage.threads import in_order

_WORTH_THREADS_BYTES = 64 << 20  # of copies that the caller waits for


@dataclass(slots=True)
class Snapshot:
    """A state that is being copied into memory.

    Attributes:
        copying: the copies within this process's memory.
        device_copies: the copies from devices.
        keys: of what the copies in memory are of.
        stall_s: how long the caller has waited so far, in seconds.
        copy_s: how long the thread in the background has copied.
    """

    copying: Copying
    device_copies: DeviceCopies
    keys: Sequence[str]
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

    def sums(self) -> dict[str, list[int]]:
        """The CRC32 of each block of what was summed when it was copied, by its key."""
        return {self.keys[number]: blocks for number, blocks in self.copying.sums().items()}


def take(pieces: Pieces, image: memoryview, owned: Watched, *, is_checked: bool) -> Snapshot:
    """Copies at once what may change before the next optimizer step; the rest is left to the snapshot.

    Args:
        pieces: of the state.
        image: the memory that they go to.
        owned: the tensors that nothing but an optimizer's step changes.
        is_checked: also compare checksums of the source and the copy; what is on a device is then copied at
            once, since the processor cannot read it.
    """
    start = ctypes.addressof(ctypes.c_char.from_buffer(image)) if image else 0
    storages, identities = pieces.storages, pieces.identities
    may_be_late = frozenset(owned.storages)
    is_late = list(map(may_be_late.__contains__, identities))
    is_here = [True] * len(storages)
    device_now: list[Target] = []
    device_late: list[Target] = []
    if "cuda" in pieces.kinds:
        is_here = [one.device.type != "cuda" for one in storages]
        for number in itertools.compress(itertools.count(), map(operator.not_, is_here)):
            is_late[number] &= not is_checked
            at, size = pieces.places[number], pieces.sizes[number]
            start_in = pieces.starts[number] if pieces.starts else 0
            target = image[at : at + size], storages[number], start_in
            (device_late if is_late[number] else device_now).append(target)
    if not pieces.kinds <= {"cpu", "cuda"}:
        storages = [one if one.device.type == "cuda" else on_cpu(one) for one in storages]
    sources = list(map(UntypedStorage.data_ptr, storages))
    if pieces.starts:
        sources = list(map(operator.add, sources, pieces.starts))
    copies = Copies(list(map(start.__add__, pieces.places)), sources, pieces.sizes)
    late_here = is_late if all(is_here) else list(map(operator.and_, is_here, is_late))
    are_all_late = all(late_here)
    late, late_keys = (copies, pieces.keys) if are_all_late else _late(copies, pieces.keys, late_here)
    at_once = DeviceCopies(device_now)
    try:
        if not are_all_late:
            _copy_at_once(chosen(copies, map(operator.gt, is_here, is_late)))
    finally:
        at_once.wait()  # after an interrupt, too: the memory is reused
    if not (are_all_late and identities):  # else it is no harm to watch what is not in the state, too
        wanted = frozenset(itertools.compress(identities, is_late))
        owned = chosen(owned, map(wanted.__contains__, owned.storages))
    pieces_keys = pieces.keys  # and not the storages
    sums: list[tuple[str, memoryview, int]] = []
    if is_checked:
        rows = zip(late_keys, *late, strict=True)
        sums = [(key, memory(to, size), isal_zlib.crc32(memory(at, size))) for key, to, at, size in rows]

    def wrong(moved: Collection[int]) -> list[str]:
        differ = [key for key, copied, crc32 in sums if isal_zlib.crc32(copied) != crc32]
        if not moved:
            return differ
        changed = itertools.compress(pieces_keys, map(frozenset(moved).__contains__, identities))
        return [*changed, *differ]

    return Snapshot(Copying(late, owned, wrong), DeviceCopies(device_late), late_keys)


def _late(copies: Copies, keys: Sequence[str], flags: list[bool]) -> tuple[Copies, Sequence[str]]:
    return chosen(copies, flags), list(itertools.compress(keys, flags))


def _copy_at_once(copies: Copies) -> None:
    """Makes copies; after an interrupt, or several, none is under way, since the memory is reused."""
    in_turn = map if sum(copies.sizes) < _WORTH_THREADS_BYTES else in_order
    for _ in in_turn(functools.partial(make, copies), split(copies)):
        pass
