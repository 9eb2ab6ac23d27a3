"""An upload of which the store copies what is the same in the last object that this process wrote.

The bytes are put into memory as for any other upload, and then compared block by block, by their digests. A
block ends after so many bytes, and where long data begins: so it has its digest wherever it comes to lie.
What is copied has a CRC32 as what is sent has one, that of memory; so a store that compares them proves that
the copy is right.
"""

import errno
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from isal import isal_zlib

from marlin_ckpt.escaping import get_logger
from marlin_ckpt.storage.s3.answers import CopyRefusedError
from marlin_ckpt.storage.s3.keys import Key
from marlin_ckpt.storage.s3.uploading.cutting import Cut, Cutter, EvenCutter
from marlin_ckpt.storage.s3.uploading.parts import Upload
from marlin_ckpt.storage.s3.uploading.sending import Copied
from marlin_ckpt.storage.target import Blocks, Earlier, OnStored, Span
from marlin_ckpt.storage.writer import Writer

REFUSED = (errno.EREMOTEIO, errno.ENOTSUP)  # of a store that has no use for parts of several lengths
_LEAST_PART = 16 << 20  # of what is compared in one go, whatever size is asked for
_LEAST_BLOCK = 1 << 20
_BLOCKS = 16  # of a part
_logger = get_logger("marlin_ckpt.storage")


def copies_from(  # noqa: PLR0913, PLR0917 - as of `Upload`
    earlier: Earlier | None,
    key_of: Callable[[str], Key],
    key: Key,
    size_bytes: int,
    metadata: Mapping[str, str],
    image: memoryview | None,
    patience_s: float | None,
) -> "Copying | None":
    """An upload that copies what it can; None where that is nothing: of an object of one part, say."""
    if earlier is None or key.client.lacks_copies or size_bytes <= _LEAST_PART:
        return None
    return Copying(key, size_bytes, metadata, image, patience_s, earlier, key_of)


def give_up(earlier: Earlier | None, key: Key, error: CopyRefusedError) -> None:
    """Has an object uploaded without a copy after one was refused, and all others if that is to last."""
    if earlier is not None:
        earlier.last = None
    if error.is_of_lengths and not key.client.wants_even_parts:
        key.client.wants_even_parts = True
        _logger.info("Uploading %s anew, in parts of one length: %s.", key.path, error)
    elif error.is_lasting and not key.client.lacks_copies:
        key.client.lacks_copies = True
        _logger.warning("The store copies no parts of objects (%s): all bytes are sent.", error)
    elif not error.is_lasting:
        _logger.info("Uploading %s anew, all its bytes: %s.", key.path, error)


class Copying(Upload):
    """An `Upload` that has the store copy what it can."""

    def __init__(  # noqa: PLR0913, PLR0917 - those of `Upload`, and two
        self,
        key: Key,
        size_bytes: int,
        metadata: Mapping[str, str],
        image: memoryview | None,
        patience_s: float | None,
        earlier: Earlier,
        key_of: Callable[[str], Key],
    ) -> None:
        """Begins nothing yet.

        Args:
            key: as for `Upload`.
            size_bytes: as for `Upload`.
            metadata: as for `Upload`.
            image: as for `Upload`.
            patience_s: as for `Upload`.
            earlier: the object that may be copied from.
            key_of: where an object of the store is, by its name.
        """
        super().__init__(key, size_bytes, metadata, image, patience_s, _LEAST_PART)
        self._earlier, self._key_of = earlier.last, key_of
        self._is_even = key.client.wants_even_parts
        self._cutter: Cutter | EvenCutter = (
            EvenCutter(self._part_bytes) if self._is_even else Cutter(self._part_bytes, size_bytes)
        )
        self._block_bytes = max(_LEAST_BLOCK, self._part_bytes // _BLOCKS)
        self._marks: deque[int] = deque()
        self._hash = earlier.hashing()
        self._digests: dict[int, bytes] = {}
        self._compared = 0  # up to here
        self._moved = 0  # by how much what was the same last begins later in the other object
        self._start, self._kept = 0, memoryview(b"")  # what is in memory of the object, and is still needed
        self._buffer: memoryview | None = None  # that has it at its start
        self._summed_from = self._summed = self._crc32 = 0  # what will be copied, and its CRC32 up to here

    def writer(self) -> Writer:
        """What fills the object."""
        return _Marking(self)

    def blocks(self, name: str, etag: str) -> Blocks:
        """What is remembered of the object.

        Args:
            name: of it in its store.
            etag: of it.
        """
        starts = {digest: start for start, digest in self._digests.items()}
        return Blocks(name, etag, self._digests, starts)

    def mark(self, offset: int) -> None:
        """Says where long data begins, behind all that was written."""
        self._marks.append(offset)

    def next(self, offset: int) -> memoryview:
        """Memory for what comes next, behind that which is still needed."""
        end = self._start + self._part_bytes
        if self._image is not None:
            self._sender.check()
            return self._image[offset:end]
        if self._buffer is None:
            buffer = super().next(offset)
            buffer[: len(self._kept)] = self._kept  # may be the very memory: then it is moved
            self._buffer = buffer
        else:
            self._sender.check()
        return self._buffer[offset - self._start : self._part_bytes]

    def write(self, piece: memoryview, offset: int) -> None:
        """Compares a full part, and has what is certain of it sent and copied."""
        end = offset + len(piece)
        memory = self._memory(end)
        self._compare(memory, end, is_last=False)
        self._make(self._cutter.full(end), memory)
        self._keep(memory)

    def finish(self, piece: memoryview, filled: int, offset: int) -> None:  # noqa: ARG002 - see `_memory`
        """Uploads the rest; see `Upload.finish`."""
        end = offset + filled
        memory = self._memory(end)
        self._compare(memory, end, is_last=True)
        cuts = self._cutter.finish()
        if not self._sender.upload_id and all(one.source is None for one in cuts):
            self._body = memory
            return
        self._make(cuts, memory)
        self._sender.finish()

    def _memory(self, end: int) -> memoryview:
        """What is in memory of the object."""
        if self._image is not None:
            return self._image[self._start : end]
        return self._kept if self._buffer is None else self._buffer[: end - self._start]

    def _keep(self, memory: memoryview) -> None:
        """Keeps what is still needed, at the start of the next buffer if this one is being sent."""
        kept = memory[self._cutter.needed_from - self._start :]
        self._start = self._cutter.needed_from
        if self._image is None and self._buffer is not None:
            self._buffer[: len(kept)] = kept
        self._kept = kept

    def _compare(self, memory: memoryview, end: int, *, is_last: bool) -> None:
        """Compares what was not compared yet."""
        for block_end in self._ends(end, is_last=is_last):
            start = self._cutter.at
            self._hash.update(memory[self._compared - self._start : block_end - self._start])
            self._digests[start] = digest = self._hash.digest()
            self._hash.reset()
            self._compared = block_end
            self._make(self._cutter.add(block_end, self._find(digest, start)), memory)
            if (copied_from := self._cutter.copied_from) is not None:
                self._sum(copied_from, block_end, memory)
        self._hash.update(memory[self._compared - self._start :])
        self._compared = end

    def _ends(self, end: int, *, is_last: bool) -> Iterator[int]:
        """Where the blocks end up to an offset; of the object, the last one ends there."""
        start = self._cutter.at
        while start < end:
            while self._marks and self._marks[0] <= start:
                self._marks.popleft()
            part_end = (start // self._part_bytes + 1) * self._part_bytes
            start += self._block_bytes
            if self._marks:
                start = min(start, self._marks[0])
            if self._is_even:
                start = min(start, part_end)
            if start > end and not is_last:
                return
            yield min(start, end)

    def _find(self, digest: bytes, start: int) -> int | None:
        """Where a block begins in the other object; where the one before it was, if there are several."""
        if self._earlier is None:
            return None
        if self._earlier.digests.get(start + self._moved) == digest:
            return start + self._moved
        found = self._earlier.starts.get(digest)
        if found is not None:
            self._moved = found - start
        return found

    def _sum(self, start: int, end: int, memory: memoryview) -> int:
        """The CRC32 of what will be copied, of which what was not summed yet is in memory."""
        if self._summed_from != start:
            self._summed_from = self._summed = start
            self._crc32 = 0
        self._crc32 = isal_zlib.crc32(memory[self._summed - self._start : end - self._start], self._crc32)
        self._summed = end
        return self._crc32

    def _make(self, cuts: list[Cut], memory: memoryview) -> None:
        """Has parts sent and copied."""
        for start, end, source in cuts:
            if not self._sender.upload_id:
                self._begin()
            if source is None:
                self._sender.write(memory[start - self._start : end - self._start], start)
                self._buffer = None  # until it is sent
                continue
            assert self._earlier is not None  # there is a source
            crc32 = self._sum(start, end, memory)
            of = self._key_of(self._earlier.name), self._earlier.etag
            self._sender.copy(Copied(*of, source, end - start, crc32), start)


class _Marking(Writer):
    """Says where long data begins."""

    def __init__(self, upload: Copying) -> None:
        super().__init__(upload)
        self._upload = upload

    def put(
        self,
        data: bytes | memoryview,
        on_stored: OnStored | None = None,
        crc32: int | None = None,
        same: Span | None = None,
    ) -> int:
        """Appends bytes; see `Target.put`."""
        if len(data) >= _LEAST_BLOCK:
            self._upload.mark(self._offset + self._filled)
        return super().put(data, on_stored, crc32, same)
