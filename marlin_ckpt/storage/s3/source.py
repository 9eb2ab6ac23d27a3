"""An object that is read by ranges, all of them of the version that it had when it was opened."""

import contextlib
import errno
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import urllib3.exceptions

from marlin_ckpt.errors import StorageError
from marlin_ckpt.storage.s3 import answers
from marlin_ckpt.storage.s3.client import Client, Target
from marlin_ckpt.storage.s3.retrying import Retrying
from marlin_ckpt.storage.s3.streaming import Stream
from marlin_ckpt.storage.source import Item, Source
from marlin_ckpt.storage.threads import in_order

# The end of a checkpoint: of most its directory and its manifest.
_TAIL_BYTES = 128 << 10
_RANGE_BYTES = 16 << 20  # of one request; several are under way at the same time
# What is shorter is read with what is around it: a request takes as long as a MiB.
_SMALL_BYTES = 256 << 10
_BLOCK_BYTES = 1 << 20
_MOST_BLOCKS = 16
_NEAR_BYTES = 64 << 10  # between two stretches that are read by one request
_UNSATISFIABLE = 416  # RFC 9110, 15.5.17


class S3Source:
    """One version of an object as a `Source`.

    Attributes:
        path: its URL.
        size_bytes: its length.
        etag: of the version.
    """

    def __init__(self, client: Client, bucket: str, key: str, path: str) -> None:
        """Reads its end.

        Raises:
            CheckpointNotFoundError: there is no such object, or bucket.
            StorageError: it cannot be read.
        """
        self._client, self._target = client, Target(bucket, key)
        self.path = path
        self._retrying = Retrying(client)
        self._changing = threading.Lock()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self.size_bytes, self._tail, headers = self._read_tail()
        self.etag = str(headers.get("ETag", ""))  # "" of an object without a byte

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fills a buffer; see `Source.read_into`."""
        size = max(0, min(len(buffer), self.size_bytes - offset))
        view = buffer[:size]
        start = self.size_bytes - len(self._tail)
        if offset >= start:
            view[:] = self._tail[offset - start : offset - start + size]
        elif size <= _SMALL_BYTES:
            self._read_small(offset, view)
        else:
            ranges = range(0, size, _RANGE_BYTES)
            for _ in in_order(lambda at: self._fill(offset + at, view[at : at + _RANGE_BYTES]), ranges):
                pass
        return size

    @contextlib.contextmanager
    def stretch(self, offset: int, size: int, *, is_own: bool = False) -> Iterator[Source]:
        """Reads a stretch by one request, from its front to its back; see `source.stretch`."""
        del is_own
        if size <= _SMALL_BYTES or offset >= self.size_bytes - len(self._tail):
            yield self
            return
        with contextlib.closing(Stream(self, offset, min(size, self.size_bytes - offset))) as stream:
            yield stream

    def read_each(
        self, items: Iterable[Item], place: Callable[[Item], tuple[int, int]]
    ) -> Iterator[tuple[Item, bytes]]:
        """Reads small stretches, several requests at a time; see `source.read_each`."""

        def read(group: list[tuple[Item, int, int]]) -> list[tuple[Item, bytes]]:
            begin, end = group[0][1], group[-1][2]
            data = bytearray(max(0, min(end, self.size_bytes) - begin))
            if begin >= self.size_bytes - len(self._tail):
                self.read_into(begin, memoryview(data))
            elif data:
                self._fill(begin, memoryview(data))
            return [(item, bytes(data[start - begin : end - begin])) for item, start, end in group]

        for found in in_order(read, _near((item, *place(item)) for item in items)):
            yield from found

    def begin(self, start: int, end: int) -> Any:
        """Asks for a range, and returns the answer, whose body is not read yet; called by `asking`."""
        headers = {"Range": f"bytes={start}-{end - 1}", "If-Match": self.etag}
        response = self._client.send("GET", self._target, headers)
        try:
            self._check_start(response.headers, start)
        except BaseException:
            response.close()
            raise
        return response

    def asking(self, request: Callable[[], None]) -> None:
        """Makes a request when it is its turn, and again where it fails in passing.

        Raises:
            StorageError: it cannot be answered, or the object was replaced.
        """

        def in_turn() -> None:
            with self._client.turn:
                request()

        try:
            self._retrying.do(in_turn, "cannot read", self.path, passes=(answers.CHANGED,))
        except answers.RefusedError:
            what = "cannot read: the object was replaced while it was read"
            raise StorageError(what, self.path, errno=errno.ESTALE) from None

    def read(self, offset: int, size: int) -> bytes:
        """Reads bytes; see `Source.read`."""
        data = bytearray(max(0, min(size, self.size_bytes - offset)))
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def _read_small(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            number, within = divmod(offset + done, _BLOCK_BYTES)
            piece = self._block(number)[within : within + len(view) - done]
            view[done : done + len(piece)] = piece
            done += len(piece)

    def _block(self, number: int) -> bytes:
        with self._changing:
            if (found := self._blocks.get(number)) is not None:
                self._blocks.move_to_end(number)
                return found
        start = number * _BLOCK_BYTES
        data = bytearray(min(_BLOCK_BYTES, self.size_bytes - start))
        self._fill(start, memoryview(data))
        found = bytes(data)
        with self._changing:
            self._blocks[number] = found
            while len(self._blocks) > _MOST_BLOCKS:
                self._blocks.popitem(last=False)
        return found

    def _fill(self, offset: int, view: memoryview) -> None:
        """Fills memory with a range; a request that breaks off goes on where it did."""
        with contextlib.closing(Stream(self, offset, len(view))) as stream:
            stream.read_into(offset, view)

    def _check_start(self, headers: Any, offset: int) -> None:
        """Looks whether an answer is of the version and the range that were asked for.

        Raises:
            RefusedError: it is of another version, though that was the condition.
            ProtocolError: its bytes are not those of the range.
        """
        if answers.etag_in(headers) != self.etag:
            raise answers.RefusedError(answers.Answer(answers.CHANGED, "", "another version"))
        start = headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
        if start != str(offset):
            raise urllib3.exceptions.ProtocolError("the answer is of another range")

    def _read_tail(self) -> tuple[int, bytes, Any]:
        def request() -> tuple[int, bytes, Any]:
            headers = {"Range": f"bytes=-{_TAIL_BYTES}"}
            with self._client.turn:
                response = self._client.send("GET", self._target, headers)
                data = _whole(response)
                answers.etag_in(response.headers)
            return _length(response.headers, len(data)), data, response.headers

        try:
            return self._retrying.do(request, "cannot read", self.path, passes=(_UNSATISFIABLE,))
        except answers.RefusedError:  # it has no last byte
            return 0, b"", {}


def _near(items: Iterable[tuple[Item, int, int]]) -> Iterator[list[tuple[Item, int, int]]]:
    """Puts those together of which one request takes no longer.

    Args:
        items: each with where its stretch begins, and how long it is.

    Yields:
        some of them, each with where its stretch begins and ends.
    """
    group: list[tuple[Item, int, int]] = []
    for item, start, size in items:
        end = start + size
        is_near = bool(group) and 0 <= start - group[-1][2] <= _NEAR_BYTES
        if group and not (is_near and end - group[0][1] <= _BLOCK_BYTES):
            yield group
            group = []
        group.append((item, start, end))
    if group:
        yield group


def _length(headers: Any, size: int) -> int:
    """The length of an object, by the answer that has its last bytes.

    Args:
        headers: of the answer.
        size: how many bytes it has.

    Raises:
        ProtocolError: they are others than were asked for.
    """
    told = headers.get("Content-Range")
    if told is None:  # all of it
        return size
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", told)
    start, last, total = map(int, found.groups()) if found else (-1, -1, -1)
    if (start, last) != (max(0, total - _TAIL_BYTES), total - 1) or size != total - start:
        raise urllib3.exceptions.ProtocolError("the answer is of another range")
    return total


def _whole(response: Any) -> bytes:
    """The body of an answer, of the length that it announces."""
    try:
        data: bytes = response.read(_TAIL_BYTES + 1)
    except BaseException:
        response.close()
        raise
    if len(data) != int(response.headers.get("Content-Length", len(data))):
        response.close()
        raise urllib3.exceptions.ProtocolError("the answer ended early")
    response.release_conn()
    return data
