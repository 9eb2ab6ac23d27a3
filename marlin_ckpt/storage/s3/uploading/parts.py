"""An object that is uploaded in parts, several at a time, and committed by one request.

Parts have one size but for the last, as Cloudflare R2 wants them; see `copying` for others. Each is sent with
its CRC32, and the commit with that of the whole, which the server compares with what it has stored; see
`sums` for those that cannot.
"""

import contextlib
import errno
import itertools
import mmap
import queue
import uuid
from collections.abc import Callable, Mapping

from botocore.exceptions import ClientError
from isal import isal_zlib

from marlin_ckpt.errors import MarlinError, StorageError
from marlin_ckpt.remote import RemoteArguments
from marlin_ckpt.storage.s3 import answers, keys
from marlin_ckpt.storage.s3.keys import Key
from marlin_ckpt.storage.s3.retrying import Retrying
from marlin_ckpt.storage.s3.sums import Sums, base64_of, checked
from marlin_ckpt.storage.s3.sums import headers as headers_of
from marlin_ckpt.storage.s3.uploading.sending import Sender, put
from marlin_ckpt.storage.target import Blocks, Span
from marlin_ckpt.storage.writer import Writer

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html: at most 10,000 parts.
_LEAST_PART, _MOST_PARTS, _MIB = 16 << 20, 9_000, 1 << 20
_QUOTE = '"'
_UNHEARD = (errno.ETIMEDOUT, errno.EPROTO)  # of a request that the store may have heard nevertheless
NONCE = "marlin-save"  # of a save, in the metadata of its object


def part_bytes(settings: RemoteArguments, size_bytes: int) -> int:
    """How large the parts of an object are.

    Args:
        settings: what is asked for.
        size_bytes: of the object, roughly.
    """
    needed = -(-size_bytes // (_MOST_PARTS * _MIB)) * _MIB
    return max(settings.part_bytes or _LEAST_PART, needed)


class Upload:
    """Parts of memory, and the way from there to an object; the `Pieces` of a `Writer`.

    An object is known as this one by its nonce, whatever becomes of the answer to its commit.

    Attributes:
        guard: called before a commit is tried again, which may be minutes after the first time; raises where
            this process may not save there any more.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - of which the last three are seldom given
        self,
        key: Key,
        size_bytes: int,
        metadata: Mapping[str, str],
        image: memoryview | None = None,
        patience_s: float | None = None,
        least_part_bytes: int = 0,
    ) -> None:
        """Begins nothing yet.

        Args:
            key: where the object will be.
            size_bytes: how long it will be, roughly.
            metadata: of the object; `NONCE` in it where another upload may have been this object already.
            image: memory for the whole object, in which any part of it may lie at its place already; None
                for buffers.
            patience_s: as for `Retrying`.
            least_part_bytes: how long a part is at least, whatever the settings say.
        """
        settings = key.client.settings
        self._key = key
        self._metadata = {NONCE: uuid.uuid4().hex, **metadata}
        self._nonce = self._metadata[NONCE]
        self.guard: Callable[[], None] = lambda: None
        self._part_bytes = max(least_part_bytes, part_bytes(settings, size_bytes))
        self._body = memoryview(b"")
        free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._free, self._image = free, image
        if image is None:
            count = min(settings.parallel + 1, max(1, -(-size_bytes // self._part_bytes)))
            for _ in range(count):
                free.put(memoryview(mmap.mmap(-1, self._part_bytes)))
        # A piece is in a buffer of its own; that of a part that the store copies is empty.
        self._sender = Sender(key, lambda piece: free.put(memoryview(piece.obj)) if image is None else None)
        self._retrying = self._sender.retrying = Retrying(key.client, patience_s)

    def writer(self) -> Writer:
        """What fills the object."""
        return Writer(self)

    def blocks(self, name: str, etag: str) -> Blocks | None:  # noqa: ARG002 - see `Copying`
        """What is remembered of the object, so that the next one can be made of it: nothing."""
        return None

    @property
    def copies(self) -> bool:
        """Whether the store was asked to copy a part."""
        return self._sender.copies

    @property
    def is_proven(self) -> bool:
        """Whether the answer to the commit proves that the store has all of it, by a sum of the whole."""
        parts = self._sender.sent.values()
        return not parts or (self._sender.sums is Sums.WHOLE and all(one.is_summed for one in parts))

    def next(self, offset: int) -> memoryview:
        """Memory for the next part; waits until there is some."""
        self._sender.check()
        if self._image is not None:
            return self._image[offset : offset + self._part_bytes]
        while not (buffer := self._free.get()):
            self._sender.check()
        return buffer

    def write(self, piece: memoryview, offset: int) -> None:
        """Has a full part uploaded."""
        if not self._sender.upload_id:
            self._begin()
        self._sender.write(piece, offset)

    def share(self, offset: int, span: Span) -> int:  # noqa: ARG002 - another file's bytes are on a disk
        """Shares nothing; see `Pieces.share`."""
        return 0

    def finish(self, piece: memoryview, filled: int, offset: int) -> None:
        """Uploads the rest; what is one part alone stays here until the commit."""
        if not self._sender.upload_id:
            self._body = piece[:filled]
            return
        if filled:
            self._sender.write(piece[:filled], offset)
        self._sender.finish()

    def stop(self) -> None:
        """Ends the threads, and no request is made again meanwhile."""
        self._retrying.stopping.set()
        self._sender.stop()

    def fence(self) -> None:
        """Makes an upload of it that others can end, however short it is.

        Whoever looks whether it may still save, and then is stopped, must find its upload ended when it goes
        on. So this comes before that look.
        """
        if not self._sender.upload_id:
            self._begin()
            self._sender.write_at(self._body, 0)

    def commit(self, condition: Mapping[str, str]) -> str:
        """Makes the object appear; after this nothing is to be aborted.

        Args:
            condition: `IfMatch` or `IfNoneMatch`; empty where the store knows none.

        Returns:
            its ETag.

        Raises:
            RefusedError, ClientError: the condition does not hold (412, 409), or another process has aborted
                the upload (404).
            OvertakenError: see `keys.complete`.
            StorageError: the store does not answer; whether the object is there is not known.
            DirectoryInUseError: by `guard`.
        """
        make, attempts = self._complete if self._sender.upload_id else self._put, itertools.count()

        def request() -> str:
            if next(attempts):
                self.guard()
            return make(condition)

        try:
            if self._sender.upload_id:
                etag = keys.complete(self._key, request, self._retrying, "cannot write")
            else:
                passes, path = answers.OF_CONDITIONS, self._key.path
                etag = self._retrying.do(request, "cannot write", path, passes=passes)
        except (answers.OvertakenError, answers.RefusedError, ClientError):
            # The answer to an earlier request may have been lost, and the object be there.
            if (found := self._mine(self._retrying)) is None:
                raise
            etag = found
        except MarlinError as error:  # all answers, for as long as we ask: it is looked at once
            try:
                found = self._mine(Retrying(self._key.client, patience_s=0))
            except MarlinError:
                if isinstance(error, StorageError) and error.errno in _UNHEARD:
                    raise answers.unsure(error, "it is stored") from None
                raise error from None
            if found is None:
                raise
            etag = found
        self._sender.upload_id = ""
        return f'"{etag.strip(_QUOTE)}"'  # some answers have no quotation marks around it

    def abort(self) -> None:
        """Frees what the store keeps of an upload that is not to be committed, if the store lets us."""
        if not self._sender.upload_id:
            return
        ours, self._sender.upload_id = self._sender.upload_id, ""
        # Why it is not committed is to be raised, not why this fails; the next run ends what stays.
        with contextlib.suppress(MarlinError):
            keys.abort(self._key, ours, Retrying(self._key.client, patience_s=5.0))

    def _begin(self) -> None:
        self._sender.sent.clear()
        self._sender.upload_id, self._sender.sums = keys.begin(
            self._key, self._metadata, self._retrying, "cannot write"
        )

    def _put(self, condition: Mapping[str, str]) -> str:
        others = {
            **{f"x-amz-meta-{name}": value for name, value in self._metadata.items()},
            **{_HEADERS[name]: value for name, value in condition.items()},
        }
        return checked(
            self._key.client,
            lambda sums: put(self._key, {**headers_of(sums, self._body), **others}, self._body),
            Sums.PARTS,
        )

    def _complete(self, condition: Mapping[str, str]) -> str:
        parts = sorted(self._sender.sent.items())
        is_summed = all(one.is_summed for _, one in parts)
        listed = [
            {"PartNumber": number, "ETag": one.etag}
            | ({"ChecksumCRC32": base64_of(one.crc32)} if is_summed else {})
            for number, one in parts
        ]
        whole = {}
        if is_summed and self._sender.sums is Sums.WHOLE:
            crc32 = 0
            for _, one in parts:
                crc32 = isal_zlib.crc32_combine(crc32, one.crc32, one.size_bytes)
            whole = {"ChecksumType": "FULL_OBJECT", "ChecksumCRC32": base64_of(crc32)}
        answer = self._key.client.control.complete_multipart_upload(
            Bucket=self._key.bucket, Key=self._key.key, UploadId=self._sender.upload_id,
            MultipartUpload={"Parts": listed}, **whole, **condition,
        )  # fmt: skip
        return str(answer["ETag"])

    def _mine(self, retrying: Retrying) -> str | None:
        """The ETag of what has the name, if it is this upload's."""
        found = keys.head(self._key, retrying)
        return None if found is None or found["Metadata"].get(NONCE) != self._nonce else str(found["ETag"])


_HEADERS = {"IfMatch": "If-Match", "IfNoneMatch": "If-None-Match"}
