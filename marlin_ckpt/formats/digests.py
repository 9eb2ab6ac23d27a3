"""The digests of large records: a record of our own inside a file, which stands before the manifest.

They say which data of two checkpoints is equal. A digest is made by XXH3-128: equal data has equal digests,
and other data has others, unless somebody makes it up to be taken for it. A digest proves no origin. Whether
data is damaged, its CRC32 says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from marlin_ckpt.errors import StorageError
from marlin_ckpt.formats.budget import versioned_json
from marlin_ckpt.formats.zip.reader import read_own
from marlin_ckpt.storage.source import Source

if TYPE_CHECKING:
    from xxhash import xxh3_128

NAME = ".marlin/digests.json"
MOST_BYTES = 16 << 20  # that of 150,000 records
LEAST_BYTES = 1 << 20  # a record that is shorter has no digest
PIECE_BYTES = 1 << 20  # fits the second-level cache
_FORMAT_VERSION = 1
_SIZE_BYTES = 8
_HEXADECIMAL = re.compile(r"[0-9a-f]{32}")


class Digest(NamedTuple):
    """What equal data has in common.

    Attributes:
        first: the XXH3-128 of its first MiB, which is known long before the other.
        whole: the XXH3-128 of those of its pieces, of 1 MiB each but for the last, and of its length behind
            them.
    """

    first: bytes
    whole: bytes


class Origin(NamedTuple):
    """The save that wrote data to the disk: one of a later save may share the blocks.

    Attributes:
        run_id: the run.
        save_number: which save of that run it was, from 1.
    """

    run_id: str
    save_number: int


class Digested(NamedTuple):
    """What is known of a record's data.

    Attributes:
        digest: of the data.
        origin: the save that wrote it.
    """

    digest: Digest
    origin: Origin


class Hashing:
    """Makes the digest of data that comes piece by piece, in pieces of any size.

    Args:
        first: that of the first MiB, if it is known; then the bytes behind it are to come.

    Raises:
        StorageError: xxhash is not installed.
    """

    def __init__(self, first: bytes = b"") -> None:
        self._new = _xxh3_128()
        self._whole, self._piece = self._new(first), self._new()
        self._first = first
        self._left = PIECE_BYTES
        self._size = PIECE_BYTES if first else 0

    def add(self, data: memoryview) -> None:
        """Takes the next bytes."""
        self._size += len(data)
        while len(data):
            part, data = data[: self._left], data[self._left :]
            self._piece.update(part)
            self._left -= len(part)
            if not self._left:
                self._end_piece()

    def digest(self) -> Digest:
        """The digest of all bytes, once they were taken; it is asked for once."""
        if self._left < PIECE_BYTES or not self._first:
            self._end_piece()
        self._whole.update(self._size.to_bytes(_SIZE_BYTES, "little"))
        return Digest(self._first, self._whole.digest())

    def _end_piece(self) -> None:
        found = self._piece.digest()
        self._first = self._first or found
        self._whole.update(found)
        self._piece.reset()
        self._left = PIECE_BYTES


def check_installed() -> None:
    """Makes sure that digests can be made.

    Raises:
        StorageError: xxhash is not installed.
    """
    _xxh3_128()


def new_hash() -> xxh3_128:
    """What makes an XXH3-128.

    Raises:
        StorageError: xxhash is not installed.
    """
    return _xxh3_128()()


def first_of(data: memoryview) -> bytes:
    """`Digest.first` of data.

    Raises:
        StorageError: xxhash is not installed.
    """
    return _xxh3_128()(data[:PIECE_BYTES]).digest()


class Digesting:
    """Makes the digests of a file's large records as they are written; see `zip.writer.Observer`.

    Attributes:
        found: what is known of all of them, once all is written.

    Args:
        origin: the save that writes the file.
        known: what is known already of some of the records, by their names; their data is not looked at.

    Raises:
        StorageError: xxhash is not installed.
    """

    def __init__(self, origin: Origin, known: Mapping[str, Digested]) -> None:
        check_installed()  # before anything is written
        self._origin = origin
        self._known = self.found = known
        self._hashing: dict[str, Hashing] = {}
        self._names: list[str] = []  # in the order of the data in the file

    def of(self, name: str, data: memoryview) -> Callable[[memoryview], None] | None:
        """What is to be told of the bytes of a record; None of one that has no digest, or a known one."""
        return self.told(name, len(data)) if name.startswith("data/") else None

    def told(self, name: str, size: int) -> Callable[[memoryview], None] | None:
        """The same of data of so many bytes, under any name."""
        if size < LEAST_BYTES:
            return None
        self._names.append(name)
        if name in self._known:
            return None
        self._hashing[name] = hashing = Hashing()
        return hashing.add

    def record(self) -> tuple[str, bytes] | None:
        """The record of the digests, once all is written; None where it is too long to be read."""
        own = {name: Digested(one.digest(), self._origin) for name, one in self._hashing.items()}
        found = {**self._known, **own}
        self.found = {name: found[name] for name in self._names}
        data = to_json(self.found)
        return (NAME, data) if len(data) <= MOST_BYTES else None


def to_json(found: Mapping[str, Digested]) -> bytes:
    """The bytes of the record: a column for each fact, and each origin once."""
    places: dict[Origin, int] = {}
    for one in found.values():
        places.setdefault(one.origin, len(places))
    values = {
        "format_version": _FORMAT_VERSION,
        "names": [*found],
        "first": [one.digest.first.hex() for one in found.values()],
        "all": [one.digest.whole.hex() for one in found.values()],
        "origin": [places[one.origin] for one in found.values()],
        "origins": [*places],
    }
    return json.dumps(values, separators=(",", ":")).encode()


def from_json(data: bytes, path: str = "") -> dict[str, Digested] | None:
    """Reads the bytes of a record.

    Args:
        data: the bytes.
        path: the file, for messages.

    Returns:
        what is known of records, by their names; None where a newer marlin-ckpt wrote it in another way.

    Raises:
        UnsafeCheckpointError: it would take more memory than any record of its length that marlin-ckpt wrote.
        ValueError: it is no such record.
    """
    try:
        values = versioned_json(data, path, _FORMAT_VERSION)
        if values is None:
            return None
        origins = [_origin(one) for one in _list(values["origins"])]
        columns = (_list(values[key]) for key in ("names", "first", "all", "origin"))
        rows = [
            (_text(name), Digested(Digest(_digest(first), _digest(whole)), _chosen(origins, at)))
            for name, first, whole, at in zip(*columns, strict=True)
        ]
    except (KeyError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"the digests are none: {error!r}") from error
    found = dict(rows)
    if len(found) != len(rows):
        raise ValueError("two digests are of one record")
    return found


def read(source: Source) -> dict[str, Digested] | None:
    """Reads the digests in a file, and nothing else of it.

    Args:
        source: the file.

    Returns:
        what is known of records, by their names; None where the file has no digests, or none in a way that is
        known here.

    Raises:
        CorruptCheckpointError: the file is damaged, as far as it was read.
        UnsafeCheckpointError: the record is far larger than any that marlin-ckpt wrote.
        StorageError: it cannot be read.
    """
    return read_own(source, NAME, MOST_BYTES, from_json)


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise TypeError("a column is none")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("a name is none")
    return value


def _digest(value: Any) -> bytes:
    if not _HEXADECIMAL.fullmatch(_text(value)):
        raise ValueError("a digest is none")
    return bytes.fromhex(value)


def _origin(value: Any) -> Origin:
    run_id, save_number = _list(value)
    if type(save_number) is not int or save_number < 1:
        raise TypeError("the number of a save is none")
    return Origin(_text(run_id), save_number)


def _chosen(origins: list[Origin], at: Any) -> Origin:
    if type(at) is not int or not 0 <= at < len(origins):
        raise TypeError("an origin is none")
    return origins[at]


def _xxh3_128() -> type[xxh3_128]:
    try:
        from xxhash import xxh3_128  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        what = "sharing what has not changed needs xxhash, and there is no such module"
        raise StorageError(what, "", "pip install 'marlin-ckpt[share]'") from None
    return xxh3_128
