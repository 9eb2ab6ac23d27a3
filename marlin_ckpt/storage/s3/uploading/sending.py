"""Sends the parts of an upload, several at a time, or has the store copy them."""

import errno
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple
from urllib.parse import quote

from botocore.exceptions import ClientError
from isal import isal_zlib

from marlin_ckpt.errors import StorageError
from marlin_ckpt.storage.piece_threads import PieceThreads
from marlin_ckpt.storage.s3 import answers
from marlin_ckpt.storage.s3.answers import CopyRefusedError
from marlin_ckpt.storage.s3.client import Target
from marlin_ckpt.storage.s3.keys import Key
from marlin_ckpt.storage.s3.retrying import Retrying
from marlin_ckpt.storage.s3.sums import Sums, base64_of, checked
from marlin_ckpt.storage.s3.sums import headers as headers_of
from marlin_ckpt.storage.s3.unreached import NotOfStoreError

_SMALL_BYTES = 64 << 10  # which wait for no turn
_COPY_PATIENCE_S = 60.0  # after which it is tried to send the bytes
_NOTHING = memoryview(b"")


class Part(NamedTuple):
    """A part that the store has.

    Attributes:
        etag: of it.
        crc32: of its bytes.
        size_bytes: its length.
        is_summed: whether the store has compared its CRC32.
    """

    etag: str
    crc32: int
    size_bytes: int
    is_summed: bool


class Copied(NamedTuple):
    """A part that the store is to copy.

    Attributes:
        source: the object that has the bytes.
        etag: of that.
        start: where they begin in that.
        size_bytes: how many they are.
        crc32: of them.
    """

    source: Key
    etag: str
    start: int
    size_bytes: int
    crc32: int


class Sender(PieceThreads):
    """Sends the parts of one upload, numbered in the order in which they are given.

    Attributes:
        retrying: makes the requests.
        upload_id: of the upload; "" while there is none.
        sums: what it is checked by.
        sent: the parts that the store has, by their numbers.
    """

    def __init__(self, key: Key, on_sent: Callable[[memoryview], object]) -> None:
        """Takes where the object will be, and what is told of memory that is needed no more."""
        super().__init__(on_sent, key.client.settings.parallel)
        self._key = key
        self.retrying = Retrying(key.client)
        self.upload_id, self.sums = "", Sums.WHOLE
        self.sent: dict[int, Part] = {}
        self._numbers: dict[int, int] = {}
        self._copies: dict[int, Copied] = {}

    @property
    def copies(self) -> bool:
        """Whether the store was asked to copy a part."""
        return bool(self._copies)

    def write(self, piece: memoryview, offset: int) -> None:
        """Has a part sent; see `PieceThreads.write`."""
        self._number(offset)
        super().write(piece, offset)

    def copy(self, copied: Copied, offset: int) -> None:
        """Has a part copied that begins at an offset of the new object.

        Raises:
            CopyRefusedError: an earlier one was refused; or as `write`.
        """
        self._copies[offset] = copied
        self.write(_NOTHING, offset)

    def write_at(self, piece: memoryview, offset: int) -> None:
        """Sends a part, or has it copied."""
        number = self._number(offset)
        copied = self._copies.get(offset)
        if copied is not None:
            self.sent[number] = self._copied(copied, number)
            return
        crc32 = isal_zlib.crc32(piece)
        query = f"partNumber={number}&uploadId={quote(self.upload_id, safe='')}"

        def request(sums: Sums) -> Part:
            etag = put(self._key, headers_of(sums, piece, crc32), piece, query)
            return Part(etag, crc32, len(piece), is_summed=sums is not Sums.MD5)

        self.sent[number] = self.retrying.do(
            lambda: checked(self._key.client, request, Sums.PARTS), "cannot write", self._key.path
        )

    def _number(self, offset: int) -> int:
        return self._numbers.setdefault(offset, len(self._numbers) + 1)

    def _copied(self, copied: Copied, number: int) -> Part:
        """Has a part copied, and compares its CRC32 with that of what is in memory, where the store tells."""
        key, source = self._key, copied.source

        def request() -> dict[str, Any]:
            answer: dict[str, Any] = key.client.control.upload_part_copy(
                Bucket=key.bucket, Key=key.key, UploadId=self.upload_id, PartNumber=number,
                CopySource={"Bucket": source.bucket, "Key": source.key}, CopySourceIfMatch=copied.etag,
                CopySourceRange=f"bytes={copied.start}-{copied.start + copied.size_bytes - 1}",
            )["CopyPartResult"]  # fmt: skip
            if not answer.get("ETag"):
                raise NotOfStoreError("the answer names no version of the part")
            return answer

        retrying = Retrying(key.client, min(_COPY_PATIENCE_S, self.retrying.patience_s))
        retrying.stopping = self.retrying.stopping
        try:
            passes = answers.OF_CONDITIONS
            done = retrying.do(request, "cannot copy", source.path, passes=passes)
        except ClientError as error:
            answer = answers.answer_of(error)
            if answer is not None and answer.code == "NoSuchUpload":
                raise answers.error_for(error, "cannot write", key.path) from None
            why = f"{source.path} is not what it was"
            raise CopyRefusedError(why, is_lasting=False) from None
        except StorageError as error:
            raise CopyRefusedError(error.what, is_lasting=error.errno != errno.ETIMEDOUT) from None
        crc32 = done.get("ChecksumCRC32")
        if crc32 and crc32 != base64_of(copied.crc32):
            raise CopyRefusedError(f"{source.path} has other bytes than were saved", is_lasting=False)
        return Part(str(done["ETag"]), copied.crc32, copied.size_bytes, is_summed=bool(crc32))


def put(key: Key, headers: Mapping[str, str], body: memoryview, query: str = "") -> str:
    """Sends an object or a part of one.

    Returns:
        its ETag.

    Raises:
        RefusedError: the store refuses it; or what the connection raises.
    """
    # A lease is renewed while data takes all turns, however slow the network is.
    with key.client.turn if len(body) > _SMALL_BYTES else nullcontext():
        response = key.client.send("PUT", Target(key.bucket, key.key, query), headers, body)
        response.drain_conn()
        return answers.etag_in(response.headers)
