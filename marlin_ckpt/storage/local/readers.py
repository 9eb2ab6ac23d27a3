"""What a file is read with by several threads at a time, each of which goes through stretches of it."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from marlin_ckpt.storage.past_cache import PastCache, Reader


class Readers:
    """A file opened once more for each reader that goes through a long stretch of it in order.

    The kernel reads ahead by where the last read of an open file ended: with each read of another thread it
    would begin anew, and a file that is in no memory took a fourth longer. What has been opened is kept for
    the next stretch: to open it for each 16 MiB took a fifth of the processor time of a restore.
    """

    def __init__(self, fd: int) -> None:
        """Takes the file, open for reading; it is opened again when the first reader comes."""
        self._fd = fd
        # A list, since its `append` and `pop` need no lock.
        self._free: list[Reader] = []
        self._is_closed = False

    @contextlib.contextmanager
    def reading(self, offset: int, size: int) -> Iterator[tuple[int, "PastCache | None"]]:
        """Opens the file for a stretch, or takes what was opened for another one that has ended.

        Args:
            offset: where the stretch begins.
            size: its length.

        Yields:
            a descriptor of its own, and what reads the stretch past the page cache; see `past_cache.Reader`.
        """
        from marlin_ckpt.storage.past_cache import Reader  # noqa: PLC0415 - `list` goes without

        try:
            reader = self._free.pop()
        except IndexError:
            reader = Reader(self._fd)
        try:
            yield reader.fd, reader.past_cache(offset, size)
        finally:
            self._free.append(reader)
            if self._is_closed:
                self.close()

    def close(self) -> None:
        """Closes what was opened, but for what is still in use, which is closed when its stretch ends."""
        self._is_closed = True
        with contextlib.suppress(IndexError):
            while True:
                self._free.pop().close()
