"""The memory of copies of states.

It is kept from save to save, since fresh memory costs several times what a copy into it does.
"""

import ctypes
import errno
import os
import weakref

from marlin_ckpt.errors import StorageError
from marlin_ckpt.operations.memory import available_bytes
from marlin_ckpt.saving.copying import device
from marlin_ckpt.storage.pages import make_huge, private_memory

_PARTS = 4  # of new memory, which come into huge pages one after the other


class Arena:
    """Memory that is reused from save to save, and replaced when a state needs more."""

    def __init__(self) -> None:
        self._memory: memoryview | None = None
        self._pinned: weakref.finalize[..., Arena] | None = None
        self._process = os.getpid()
        self._small = memoryview(b"")
        self.size_bytes = 0

    def settle(self) -> None:
        """Puts another quarter of the memory into huge pages, behind a save that has filled it.

        All at once would make whoever waits for the first save wait for 1 to 2 s more, for 1.4 GB.
        """
        part = -(-self.size_bytes // _PARTS)
        make_huge(self._small[:part])
        self._small = self._small[part:]

    def room(self, size_bytes: int, *, is_pinned: bool = False) -> memoryview:
        """Gives memory that begins at a page boundary; what it held before is lost.

        Args:
            size_bytes: how much, at least.
            is_pinned: pin it, where the system can, for copies from a device.

        Raises:
            StorageError: ENOMEM, there is less memory than that.
        """
        is_inherited = self._process != os.getpid()  # without its content: see below
        if self._memory is None or size_bytes > self.size_bytes or is_inherited:
            self.free()
            self._process = os.getpid()
            available = available_bytes()
            if available is not None and size_bytes > available:
                raise _no_memory(size_bytes, f"{available:,} bytes are available")
            try:
                # The first copy of 1.4 GB held a step up for 0.2 to 1.4 s in huge pages, 0.03 s in small.
                self._memory = private_memory(size_bytes, is_wiped_by_fork=True, is_huge=is_pinned)
            except (OSError, OverflowError, MemoryError) as error:
                raise _no_memory(size_bytes, str(error)) from error
            self.size_bytes = size_bytes
            self._small = self._memory[: 0 if is_pinned else size_bytes]
        if is_pinned and self._pinned is None:
            address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
            if device.pin(address, self.size_bytes):
                self._pinned = weakref.finalize(self, device.unpin, address)
                self._pinned.atexit = False  # the process's end does it
        return self._memory

    def free(self) -> None:
        """Gives the memory back; it is freed when the last view of it is."""
        if self._pinned is not None:
            unpin = self._pinned if self._process == os.getpid() else self._pinned.detach
            unpin()
            self._pinned = None
        self._memory, self._small, self.size_bytes = None, memoryview(b""), 0


def _no_memory(size_bytes: int, reason: str) -> StorageError:
    what = f"no memory for a copy of the state, {size_bytes:,} bytes: {reason}"
    return StorageError(
        what,
        "",
        "a save that is not asynchronous needs none: async_save: false, or asynchronous=False",
        errno=errno.ENOMEM,
    )
