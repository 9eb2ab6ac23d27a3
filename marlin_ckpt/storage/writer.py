"""The one writer: it copies what it is given into pieces of memory, and has each full piece written.

The bytes are summed where they are copied to, so that the checksum is that of the object, whatever other
threads do meanwhile to the tensors that they come from.
"""

import ctypes
from typing import Protocol

from isal import isal_zlib

from marlin_ckpt.storage.target import OnStored, Span

_SUMMED_BYTES = 512 << 10  # copied at a time: still in the second-level cache when they are summed
_WORTH_A_CALL_BYTES = 16 << 10
_NO_PIECE = memoryview(b"")


class Pieces(Protocol):
    """Memory of a store's, and the way from there to an object."""

    def next(self, offset: int) -> memoryview:
        """Memory for the piece that begins there in the object; waits until there is some."""

    def write(self, piece: memoryview, offset: int) -> None:
        """Has a piece written at its place in the object: a full one, or the start of one up to a share."""

    def share(self, offset: int, span: Span) -> int:
        """Has the object share bytes with another one in place of writing them.

        Args:
            offset: in the object, where they begin; behind all that was written and shared.
            span: where they lie in the other.

        Returns:
            how many from the first on are shared now; after more than none, `offset` was a block's border.
        """

    def finish(self, piece: memoryview, filled: int, offset: int) -> None:
        """Writes the rest, which fills the start of a piece, and waits for all of them."""

    def stop(self) -> None:
        """Ends whatever still writes."""


class Writer:
    """Fills an empty object from front to back: the `Target` of a store that writes in pieces."""

    def __init__(self, pieces: Pieces) -> None:
        """Takes where its pieces go."""
        self._pieces = pieces
        self._piece = _NO_PIECE  # until there is something to put into it
        self._filled = 0
        self._offset = 0  # of the piece in the file

    def put(
        self,
        data: bytes | memoryview,
        on_stored: OnStored | None = None,
        crc32: int | None = None,
        same: Span | None = None,
    ) -> int:
        """Appends bytes; see `Target.put`. Those that lie at their place in an image are not copied."""
        view = memoryview(data)
        summed = 0
        if same is not None and crc32 is not None:
            shared = self._share(same._replace(size=min(same.size, len(view))))
            if on_stored is not None:
                _tell(on_stored, view[:shared])
            view = view[shared:]
            if not shared:  # the memory may have changed since it was compared, and is what is stored
                crc32 = None
        while view:
            if not self._piece:
                self._piece = self._pieces.next(self._offset)
                if not self._piece:
                    raise ValueError(f"an image of {self._offset:,} bytes is shorter than what it is of")
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
                self._end_piece()
        return summed if crc32 is None else crc32

    def _share(self, span: Span) -> int:
        """Shares what can be shared of bytes that come next, and says how many these are."""
        shared = self._pieces.share(self._offset + self._filled, span)
        if shared and self._filled:
            self._end_piece()
        self._offset += shared
        return shared

    def _end_piece(self) -> None:
        self._pieces.write(self._piece[: self._filled], self._offset)
        self._offset += self._filled
        self._piece, self._filled = _NO_PIECE, 0

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


def _tell(on_stored: OnStored, data: memoryview) -> None:
    for start in range(0, len(data), _SUMMED_BYTES):
        on_stored(data[start : start + _SUMMED_BYTES])


def _copy(source: memoryview, place: memoryview) -> None:
    if source.readonly or len(source) < _WORTH_A_CALL_BYTES:
        place[:] = source
        return
    # memmove(3) through ctypes lets go of the interpreter's lock; a slice assignment would hold it, and the
    # threads that write would wait for it up to the switch interval of 5 ms after each write.
    there, here = (ctypes.addressof(ctypes.c_char.from_buffer(one)) for one in (source, place))
    if there != here:
        ctypes.memmove(here, there, len(source))
