"""What talks to an S3 store that is a dictionary, whose parts may be as short as a test wants them."""

from __future__ import annotations

import base64
import datetime
import itertools
import re
import threading
import zlib
from types import SimpleNamespace
from urllib.parse import parse_qs

from botocore.exceptions import ClientError
from urllib3._collections import HTTPHeaderDict

from marlin_ckpt.remote import RemoteArguments
from marlin_ckpt.storage.s3.sums import Sums


class MemoryClient:
    """Does what `Client` does, as far as objects are uploaded and copied.

    Attributes:
        objects: by their keys, each with its ETag and its bytes.
        sent_bytes: of all that was uploaded.
        copied: how many parts were copied.
        wants_one_length: whether all parts but the last must be as long as the first.
    """

    def __init__(self, least_part: int) -> None:
        self.wants_one_length = False
        self.settings, self.sums, self.turn = RemoteArguments(), Sums.WHOLE, threading.BoundedSemaphore(4)
        self.has_answered, self.lacks_copies, self.lacks_conditions = True, False, set()
        self.wants_even_parts = False
        self.offset_s, self.doubt_s = 0.0, 1.0
        self.control = self
        self.objects: dict[str, tuple[str, bytes]] = {}
        self.sent_bytes = self.copied = 0
        self._least = least_part
        self._numbers = itertools.count()
        self._uploads: dict[str, dict[int, bytes]] = {}

    def send(self, _method, at, headers, body):
        data = bytes(body)
        self.sent_bytes += len(data)
        if headers["x-amz-checksum-crc32"] != crc32_of(data):
            raise refusal(400, "InvalidDigest")
        if not at.query:
            self._put(at.key, data)
            etag = self.objects[at.key][0]
        else:
            query = parse_qs(at.query)
            etag = f'"{next(self._numbers)}"'
            self._uploads[query["uploadId"][0]][int(query["partNumber"][0])] = data
        return SimpleNamespace(headers=HTTPHeaderDict({"ETag": etag}), drain_conn=lambda: None)

    def head_object(self, **how):
        if how["Key"] not in self.objects:
            raise refusal(404, "NoSuchKey", "HeadObject")
        etag, data = self.objects[how["Key"]]
        now = datetime.datetime.now(datetime.UTC)
        return {"ETag": etag, "ContentLength": len(data), "Metadata": {}, "LastModified": now}

    def create_multipart_upload(self, **_):
        upload_id = f"upload {next(self._numbers)}"
        self._uploads[upload_id] = {}
        return {"UploadId": upload_id, "ChecksumType": "FULL_OBJECT"}

    def upload_part_copy(self, **how):
        etag, data = self.objects.get(how["CopySource"]["Key"], ("", b""))
        if etag != how["CopySourceIfMatch"]:
            raise refusal(412, "PreconditionFailed")
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", how["CopySourceRange"]).groups())
        if not first <= last < len(data):
            raise refusal(416, "InvalidRange")
        part = data[first : last + 1]
        self.copied += 1
        self._uploads[how["UploadId"]][how["PartNumber"]] = part
        return {"CopyPartResult": {"ETag": f'"{next(self._numbers)}"', "ChecksumCRC32": crc32_of(part)}}

    def complete_multipart_upload(self, **how):
        found = self._uploads[how["UploadId"]]
        numbers = [one["PartNumber"] for one in how["MultipartUpload"]["Parts"]]
        if numbers != [*range(1, len(found) + 1)]:
            raise refusal(400, "InvalidPart")
        if any(len(found[number]) < self._least for number in numbers[:-1]):
            raise refusal(400, "EntityTooSmall")
        sizes = [len(found[number]) for number in numbers]
        if self.wants_one_length and (len({*sizes[:-1]}) > 1 or sizes[-1] > sizes[0]):
            raise refusal(400, "InvalidPart")
        data = b"".join(found[number] for number in numbers)
        if how["ChecksumCRC32"] != crc32_of(data):
            raise refusal(400, "InvalidDigest")
        self._put(how["Key"], data)
        del self._uploads[how["UploadId"]]
        return {"ETag": self.objects[how["Key"]][0]}

    def abort_multipart_upload(self, **how):
        del self._uploads[how["UploadId"]]

    def _put(self, key: str, data: bytes) -> None:
        self.objects[key] = f'"{next(self._numbers)}"', data


def crc32_of(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def refusal(status: int, code: str, what: str = "Request") -> ClientError:
    about = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(about, what)
