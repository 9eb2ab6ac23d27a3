"""The uploads under way to a prefix, each by a name of its own among those of objects."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from marlin_ckpt import naming
from marlin_ckpt.entries import Item
from marlin_ckpt.storage.s3 import answers, keys
from marlin_ckpt.storage.s3.keys import Key
from marlin_ckpt.storage.s3.retrying import Retrying

# Between the name of an object and the upload that will be it. No name of ours holds it: S3's own URLs of an
# upload do.
MARK = "?uploadId="


def is_checkpoint(name: str) -> bool:
    """Whether a name is one of ours directly in a folder: what others upload there is not to be ended."""
    return "/" not in name and bool(naming.parse_any(name, naming.split_extension(name)[1]))


def in_folder(folder: Key, before: str, retrying: Retrying) -> Iterator[Item]:
    """Lists the uploads of names that are ours, directly in a folder; see `under_way`."""
    # SeaweedFS does not obey the delimiter.
    return under_way(folder, before, retrying, is_checkpoint, {"Delimiter": "/"})


def under_way(
    place: Key,
    before: str,
    retrying: Retrying,
    is_wanted: Callable[[str], bool],
    how: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Item]:
    """Lists uploads.

    Args:
        place: what their keys begin with.
        before: what their names begin with in the store.
        retrying: makes the requests.
        is_wanted: which of them, by the rest of their keys.
        how: the requests are made.
    """
    more = dict(how)
    while True:
        page = retrying.do(partial(_page, place, more), "cannot list the uploads", place.path)
        for one in page.get("Uploads", ()):
            rest = one["Key"][len(place.key) :]
            if not is_wanted(rest):
                continue
            name = f"{before}{rest}{MARK}{one['UploadId']}"
            yield Item(name, 0, int(one["Initiated"].timestamp() * 1e9), (one["UploadId"], name))
        if not page.get("IsTruncated"):
            return
        # SeaweedFS orders uploads by their ids, and gives no key.
        found = {name: page.get(f"Next{name}") for name in ("KeyMarker", "UploadIdMarker")}
        before_it, more = more, more | {name: marker for name, marker in found.items() if marker}
        if more == before_it:
            raise answers.endless("cannot list the uploads", place.path)


def end_of(key: Key, retrying: Retrying) -> None:
    """Ends the uploads of one object."""
    for one in under_way(key, "", retrying, lambda rest: not rest):
        keys.abort(key, str(one.identity[0]), retrying)


def _page(folder: Key, more: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = folder.client.control.list_multipart_uploads(
        Bucket=folder.bucket, Prefix=folder.key, **more
    )
    return found
