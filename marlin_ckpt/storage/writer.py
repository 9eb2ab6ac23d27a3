"""The one writer: it copies what it is given into pieces of memory, and has each full piece written.

The bytes are summed where they are copied to, so that the checksum is that of the object, whatever other
threads do meanwhile to the tensors that they come from.
"""

import ctypes
from typing import Protocol

from isal import isal_zlib

from marlin_ckpt.storage.target import OnStored

_SUMMED_BYTES = 512 << 10  # copied at a time: still in the second-level cache when they are summed
_WORTH_A_CALL_BYTES = 16 << 10


class Pieces(Protocol):
    """Memory of a store's, and the way from there to an object."""

    def next(self) -> memoryview:
        """Memory for the next piece; waits until there is some."""

    def write(self, piece: memoryview, offset: int) -> None:
        """Has a full piece written at its place in the object."""

    def finish(self, piece: memoryview, filled: int, offset: int) -> None:
        """Writes the rest, which fills the start of a piece, and waits for all of them."""

    def stop(self) -> None:
        """Ends whatever still writes."""


class Writer:
    """Fills an empty object from front to back: the `Target` of a store that writes in pieces."""

    def __init__(self, pieces: Pieces) -> None:
        """Takes where its pieces go."""
        self._pieces = pieces
        self._piece = pieces.next()
        self._filled = 0
        self._offset = 0  # of the piece in the file

    def put(
        self, data: bytes | memoryview, on_stored: OnStored | None = None, crc32: int | None = None
    ) -> int:
        """Appends bytes; see `Target.put`. Those that lie at their place in an image are not copied."""
        view = memoryview(data)
        summed = 0
        while view:
            size = min(len(view), len(self._piece) - self._filled, _SUMMED_BYTES)
            place = self._piece[self._filled : self._filled + size]
            _copy(view[:size], place)
            if crc32 is None:
                summed = isal_zlib.crc32(place, summed)
            if on_stored is not None:
                on_stored(place)
            self._filled += size
            view = view[size:]
            if self._filled == len(self._piece):
                self._pieces.write(self._piece, self._offset)
                self._offset += self._filled
                self._filled = 0
                self._piece = self._pieces.next()
        return summed if crc32 is None else crc32

    def finish(self) -> int:
        """Hands on what remains; of a local file an fsync is still to come.

        Returns:
            the object's length in bytes.

        Raises:
            OSError: something cannot be written.
        """
        self._pieces.finish(self._piece, self._filled, self._offset)
        return self._offset + self._filled

    def stop(self) -> None:
        """Ends whatever still writes, whether the file is complete or not."""
        self._pieces.stop()


def _copy(source: memoryview, place: memoryview) -> None:
    if source.readonly or len(source) < _WORTH_A_CALL_BYTES:
        place[:] = source
        return
    # memmove(3) through ctypes lets go of the interpreter's lock; a slice assignment would hold it, and the
    # threads that write would wait for it up to the switch interval of 5 ms after each write.
    there, here = (ctypes.addressof(ctypes.c_char.from_buffer(one)) for one in (source, place))
    if there != here:
        ctypes.memmove(here, there, len(source))
