"""A stretch of an object that is read from its front to its back, by one request."""

from typing import TYPE_CHECKING, Any

import urllib3.exceptions

if TYPE_CHECKING:
    from marlin_ckpt.storage.s3.source import S3Source

_PIECE_BYTES = 512 << 10  # taken from a connection at a time: urllib3 copies it
_MOST_SKIPPED_BYTES = 256 << 10  # of what lies between two reads: a request takes as long


class Stream:
    """A stretch of an object as a `Source`; reads that come in its order go on with one request.

    Any other read begins a request anew, to the end of the stretch, or is one of the whole object.
    """

    def __init__(self, source: "S3Source", start: int, size_bytes: int) -> None:
        """Takes the stretch; makes no request."""
        self.path, self.size_bytes = source.path, source.size_bytes
        self._source = source
        self._start, self._end = start, start + size_bytes
        self._at = start
        self._answer: Any = None

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fills a buffer; see `Source.read_into`."""
        if not self._start <= offset <= offset + len(buffer) <= self._end:
            return self._source.read_into(offset, buffer)
        if not 0 <= offset - self._at <= _MOST_SKIPPED_BYTES:
            self.close()
        done = 0

        def request() -> None:
            nonlocal done
            if self._answer is None:
                self._answer, self._at = self._source.begin(offset + done, self._end), offset + done
            try:
                while self._at < offset:
                    self._at += self._take(memoryview(bytearray(offset - self._at)))
                while done < len(buffer):
                    read = self._take(buffer[done : done + _PIECE_BYTES])
                    done += read
                    self._at += read
            except BaseException:
                self.close()
                raise

        self._source.asking(request)
        if self._at == self._end:
            self._answer.release_conn()
            self._answer = None
        return len(buffer)

    def read(self, offset: int, size: int) -> bytes:
        """Reads bytes; see `Source.read`."""
        data = bytearray(max(0, min(size, self.size_bytes - offset)))
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def close(self) -> None:
        """Ends the request; the next read begins another."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close()

    def _take(self, view: memoryview) -> int:
        read: int = self._answer.readinto(view)
        if not read:
            raise urllib3.exceptions.ProtocolError("the answer ended early")
        return read
