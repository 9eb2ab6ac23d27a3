"""What a file's content is handed to while it is written, whatever store the file is in."""

from collections.abc import Callable
from typing import Protocol


class Target(Protocol):
    """A file that is written from its front to its end. A store makes it, and publishes what it was given."""

    def put(self, data: bytes | memoryview) -> int:
        """Appends bytes, of any number; the memory may be changed once this returns.

        Args:
            data: contiguous bytes.

        Returns:
            the CRC32 of the bytes that are stored. Where another thread changes `data` meanwhile, they are
            neither what it was before nor what it is afterwards; the CRC holds for them all the same.

        Raises:
            OSError: these or earlier bytes cannot be written.
        """


Fill = Callable[[Target], None]
