"""The uploads under way to a prefix, each by a name of its own among those of objects."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from marlin_ckpt import naming
from marlin_ckpt.entries import Item
from marlin_ckpt.storage.s3.keys import Key
from marlin_ckpt.storage.s3.retrying import Retrying

# Between the name of an object and the upload that will be it. No name of ours holds it: S3's own URLs of an
# upload do.
MARK = "?uploadId="


def under_way(folder: Key, before: str, retrying: Retrying, *, is_own: bool = False) -> Iterator[Item]:
    """Lists the uploads of names that are ours, directly in a folder; those of others are not to be ended.

    Args:
        folder: the prefix of all keys in it.
        before: what its objects' names begin with in the store.
        retrying: makes the requests.
        is_own: everything in the folder is ours, and in those below.
    """
    more = {} if is_own else {"Delimiter": "/"}
    while True:
        page = retrying.do(partial(_page, folder, more), "cannot list the uploads", folder.path)
        for one in page.get("Uploads", ()):
            rest = one["Key"][len(folder.key) :]
            # SeaweedFS does not obey the delimiter; and others upload other names.
            is_ours = "/" not in rest and naming.parse_any(rest, naming.split_extension(rest)[1])
            if not (is_ours or is_own):
                continue
            name = f"{before}{rest}{MARK}{one['UploadId']}"
            yield Item(name, 0, int(one["Initiated"].timestamp() * 1e9), (one["UploadId"], name))
        if not page.get("IsTruncated"):
            return
        more |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def _page(folder: Key, more: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = folder.client.control.list_multipart_uploads(
        Bucket=folder.bucket, Prefix=folder.key, **more
    )
    return found
