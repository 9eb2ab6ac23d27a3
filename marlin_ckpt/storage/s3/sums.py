"""What an upload is checked by: stores differ in the checksums that they know, which is learnt from refusals.

Each of the three proves that the store received the bytes that were in memory. Cloudflare R2 has no CRC32 of
a whole object, Backblaze B2 no CRC32 at all.
"""

import base64
import enum
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from botocore.exceptions import ClientError
from isal import isal_zlib

from marlin_ckpt.escaping import get_logger
from marlin_ckpt.storage.s3 import answers

if TYPE_CHECKING:
    from marlin_ckpt.storage.s3.client import Client

_T = TypeVar("_T")
_logger = get_logger("marlin_ckpt.storage")


class Sums(enum.IntEnum):
    """What a store compares, the most that it knows first."""

    WHOLE = 0  # the CRC32 of each part and that of the whole object
    PARTS = 1  # the CRC32 of each part, also when they are joined
    MD5 = 2  # the MD5 of each part, as S3 has known it from the start


_COMPARED = {
    Sums.PARTS: "the CRC32 of each part of an object, and not that of the whole",
    Sums.MD5: "the MD5 of each part of an object, and no CRC32",
}


def base64_of(crc32: int) -> str:
    """A CRC32 as S3 writes it."""
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()


def headers(sums: Sums, data: memoryview, crc32: int | None = None) -> dict[str, str]:
    """The headers that say what bytes are sent.

    Args:
        sums: what the store compares.
        data: what is sent.
        crc32: of it; None: not known yet.
    """
    if sums is Sums.MD5:
        return {"Content-MD5": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}
    return {"x-amz-checksum-crc32": base64_of(isal_zlib.crc32(data) if crc32 is None else crc32)}


def checked(client: "Client", send: Callable[[Sums], _T], first: Sums = Sums.WHOLE) -> _T:
    """Makes a request with what the store compares, and with the next simpler where it refuses that.

    Args:
        client: remembers what its store has refused.
        send: makes it.
        first: that is tried; those before it would send the same.

    Raises:
        RefusedError, ClientError: the store refuses the request, whatever it is sent with.
    """
    sums = begun = max(client.sums, first)
    while True:
        try:
            found = send(sums)
        except (answers.RefusedError, ClientError) as error:
            answer = answers.answer_of(error)
            if sums is Sums.MD5 or answer is None or not answer.is_odd:
                raise
            sums = Sums(sums + 1)
        else:
            if sums > begun:
                learn(client, sums)
            return found


def learn(client: "Client", sums: Sums) -> None:
    """Keeps in mind what a store compares."""
    if sums > client.sums:
        client.sums = sums
        _logger.info("The store compares %s.", _COMPARED[sums])
