"""The manifest: our own record inside a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeVar

from marlin_ckpt.errors import UnknownFormatError
from marlin_ckpt.formats.budget import check_json
from marlin_ckpt.formats.times import seconds_of
from marlin_ckpt.naming import MANIFEST, SHARDED, Kind

NAME = MANIFEST
FORMAT_VERSION = 1
_MOST_BYTES = 8 << 20  # beside what it says of each record; reading JSON takes 25 times its length of memory

_SUM_BYTES = len('{"checksum":"00000000",')
# Object stores take 2 KB of metadata with an object, the names in it and those of others included:
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html
_MOST_BRIEF = 1_900
_MOST_SHOWN = 100  # characters of a value that is none
_NOT_FINITE = ("nan", "inf", "-inf")  # as `json_ready` writes them

_T = TypeVar("_T")
_ROW_KEYS = 3
_quoted = json.encoder.encode_basestring_ascii
_dense = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def most_bytes(names: Iterable[str]) -> int:
    """How long a manifest may be.

    Args:
        names: of the records in its file.
    """
    lengths = [*map(len, names)]
    return _MOST_BYTES + 2 * sum(lengths) + 64 * len(lengths)


class Parent(NamedTuple):
    """The checkpoint that a run was resumed from.

    Attributes:
        run_id: the run that wrote it.
        save_number: which save of that run it was, from 1.
        name: the name of its file.
    """

    run_id: str
    save_number: int
    name: str


class Mesh(NamedTuple):
    """How the ranks of a run were arranged.

    Attributes:
        names: of the mesh's dimensions, `("dp", "tp")`.
        shape: how many ranks each has.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]


class Sharded(NamedTuple):
    """How a checkpoint is made up of shards.

    Attributes:
        save_id: of the save, which every shard repeats, so that shards of two saves are no checkpoint.
        world_size: how many ranks the run had.
        mesh: how they were arranged; None where they were in one row.
    """

    save_id: str
    world_size: int
    mesh: Mesh | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a file is, when it was written, by which run and with which metrics.

    Attributes:
        kind: a checkpoint, or a model file.
        index: the epoch or step that it was saved under.
        created: when it was written, in UTC in ISO 8601, to the millisecond; to the second in files of
            version 0.1.
        run_id: the id of the run that wrote it.
        save_number: which save of that run it was, from 1.
        metrics: names and numbers.
        versions: the versions of marlin-ckpt, torch and Python that wrote it.
        records: the name, size in bytes and CRC32 of each record before the manifest; in a folder, of each
            file, by its path in the folder.
        lost: the names of the tensors that were lost, in a file that `salvage` wrote.
        parent: the checkpoint that the run was resumed from; None if it began anew.
        optimizers: the names of the parameters of each known optimizer, one list for each group. The keys are
            the places of the optimizers' states in the file.
        layout: how a folder makes up the checkpoint; `""` in a file.
        sharded: how it is made up of shards; None where it is not.
        format_version: the version of this JSON record.
    """

    kind: Kind
    index: int
    created: str
    run_id: str
    save_number: int
    metrics: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    parent: Parent | None = None
    optimizers: dict[str, list[list[str]]] = field(default_factory=dict)
    layout: str = ""
    sharded: Sharded | None = None
    format_version: int = FORMAT_VERSION

    def created_s(self) -> float | None:
        """`created` in seconds since 1970; None if it is not a time."""
        return seconds_of(self.created)

    def to_json(self) -> bytes:
        """The bytes of the record; equal manifests give equal bytes.

        That of a folder, which no container has a CRC32 of, begins with one of all that follows.
        """
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["metrics"] = json_ready(self.metrics)
        values["parent"] = None if self.parent is None else self.parent._asdict()
        if not self.layout:
            del values["layout"]
        if self.sharded is None:
            del values["sharded"]
        else:
            mesh = self.sharded.mesh and self.sharded.mesh._asdict()
            values["sharded"] = {**self.sharded._asdict(), "mesh": mesh}
        # Of thousands of records a text of each takes half of the time that JSON takes for as many dicts.
        values["records"] = []
        text = _dense(values)
        records = ",".join(map(_record_text, self.records))
        data = text.replace('"records":[]', f'"records":[{records}]', 1).encode()
        return summed(data) if self.layout else data

    def brief(self) -> str:
        """What a listing shows, in few letters that any store takes, for `from_json`; "" where it is much.

        It is without the records and the optimizers. Blanks are spelled out, since some that follow another
        get lost in headers of HTTP.
        """
        text = replace(self, records=[], optimizers={}).to_json().decode().replace(" ", "\\u0020")
        return text if len(text) <= _MOST_BRIEF else ""

    @classmethod
    def from_json(cls, data: bytes, path: str = "") -> Manifest:
        """Reads the bytes of a record.

        Args:
            data: the bytes.
            path: the file, for messages.

        Raises:
            UnsafeCheckpointError: it would take more memory than any record of its length that marlin-ckpt
                wrote.
            UnknownFormatError: a newer marlin-ckpt wrote it.
            ValueError: it is not a manifest.
        """
        check_json(data, path)
        try:
            values = json.loads(data)
            if "checksum" in values and data != summed(b"{" + data[_SUM_BYTES:]):
                raise ValueError("its checksum does not hold")
            if values.get("layout") == SHARDED and "checksum" not in values:
                raise ValueError("it has no checksum")
            version = values["format_version"]
            if type(version) is int and version > FORMAT_VERSION:
                what = f"the manifest has format {version}, this marlin-ckpt reads {FORMAT_VERSION}"
                raise UnknownFormatError(what, path, "a newer marlin-ckpt wrote it: upgrade")
            if type(version) is not int or version != FORMAT_VERSION:
                raise ValueError("the manifest has no known format")
            return cls(
                kind=Kind(values["kind"]),
                index=_number(values["index"], 0),
                created=_of(str, values["created"]),
                run_id=_of(str, values["run_id"]),
                save_number=_number(values["save_number"], 1),
                metrics={key: _metric(value) for key, value in values["metrics"].items()},
                versions={key: _of(str, value) for key, value in values["versions"].items()},
                records=_of(list, values["records"]),
                lost=_texts(values.get("lost", [])),
                parent=_parent(values.get("parent")),
                optimizers={
                    path: [_texts(group) for group in _of(list, groups)]
                    for path, groups in values.get("optimizers", {}).items()
                },
                layout=_of(str, values.get("layout", "")),
                sharded=_sharded(values["sharded"]) if "sharded" in values else None,
            )
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"the manifest is not one: {error!r}") from error


def summed(data: bytes) -> bytes:
    """A JSON object, of which each byte that follows its new first key is summed there."""
    from isal import isal_zlib  # noqa: PLC0415 - most manifests have none, and `latest` reads no other

    rest = data.removeprefix(b"{")
    return b'{"checksum":"%08x",' % isal_zlib.crc32(rest) + rest


def _parent(values: Any) -> Parent | None:
    """What a manifest says of the parent; None where it says nothing, as those of version 0.1."""
    if values is None:
        return None
    return Parent(_of(str, values["run_id"]), _number(values["save_number"], 1), _of(str, values["name"]))


def _sharded(values: Any) -> Sharded:
    mesh = values["mesh"]
    if mesh is not None:
        shape = tuple(_number(one, 1) for one in _of(list, mesh["shape"]))
        mesh = Mesh(tuple(_texts(mesh["names"])), shape)
        if len(mesh.names) != len(mesh.shape):
            raise ValueError("the mesh has another number of names than of dimensions")
    return Sharded(_of(str, values["save_id"]), _number(values["world_size"], 1), mesh)


def _of(kind: type[_T], value: Any) -> _T:
    """A value that is of one type of JSON's, and of no other that Python would convert to it."""
    if type(value) is not kind:
        raise TypeError(f"{str(value)[:_MOST_SHOWN]} is no {kind.__name__}")
    return value


def _number(value: Any, least: int) -> int:
    if _of(int, value) < least:
        raise ValueError(f"{value} is less than {least}")
    return int(value)


def _metric(value: Any) -> float:
    return float(value) if type(value) is int or value in _NOT_FINITE else _of(float, value)


def _texts(values: Any) -> list[str]:
    return [_of(str, one) for one in _of(list, values)]


def _record_text(row: Any) -> str:
    """A record as the manifest has it; of other forms, which a file may hold, whatever JSON makes of them."""
    try:
        crc32, name, size = row["crc32"], row["name"], row["size"]
        if len(row) == _ROW_KEYS and type(crc32) is type(size) is int:
            return f'{{"crc32":{crc32},"name":{_quoted(name)},"size":{size}}}'
    except (KeyError, TypeError):
        pass
    return _dense(row)


def json_ready(value: Any) -> Any:
    """A copy in which numbers that JSON cannot spell (NaN, the infinities) are strings that float() reads."""
    if isinstance(value, dict):
        return {key: json_ready(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
