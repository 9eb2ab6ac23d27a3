"""Hostile containers: zips and manifests that lie."""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from tests.support import hostile_pickles as pickles

MEGABYTE = 1_000_000
HARMLESS = pickles.state(pickles.tensor())


@dataclass(frozen=True)
class Hostile:
    """A file to be made.

    Attributes:
        title: what it is.
        content: its bytes, or what makes it at a path.
        loads: `refused`, or `perhaps` where what it says is harmless, or `error` where it is no regular file.
        verified: the exit codes of `verify` that are right.
        name: of the file.
        group: `ordinary`, or of which defect of reading it makes use.
    """

    title: str
    content: bytes | Callable[[str], None]
    loads: str = "refused"
    verified: tuple[int, ...] = (0,)
    name: bytes = b"model_1.pt"
    group: str = "ordinary"


@dataclass(frozen=True)
class Entry:
    """A record of a zip, and the lies that its header and its entry in the directory tell."""

    name: bytes
    data: bytes
    crc32: int | None = None
    size: int | None = None
    local_size: int | None = None
    local_name: bytes | None = None
    offset: int | None = None
    method: int = 0
    flags: int = 0
    attributes: int = 0
    extra: bytes = b""

    def header(self) -> bytes:
        size = len(self.data) if self.local_size is None else self.local_size
        name = self.name if self.local_name is None else self.local_name
        crc32 = zlib.crc32(self.data) if self.crc32 is None else self.crc32
        fixed = (b"PK\3\4", 20, self.flags, self.method, 0, 33, crc32, size, size, len(name), 0)
        return struct.pack("<4sHHHHHLLLHH", *fixed) + name + self.data

    def entry(self, at: int) -> bytes:
        size = len(self.data) if self.size is None else self.size
        packed = len(self.data) if self.method else size
        crc32 = zlib.crc32(self.data) if self.crc32 is None else self.crc32
        fixed = (b"PK\1\2", 20, 20, self.flags, self.method, 0, 33, crc32, packed, size, len(self.name))
        at = at if self.offset is None else self.offset
        rest = (len(self.extra), 0, 0, 0, self.attributes, at)
        return struct.pack("<4sHHHHHHLLLHHHHHLL", *fixed, *rest) + self.name + self.extra


def zipped(
    entries: list[Entry],
    *,
    count: int | None = None,
    comment: bytes = b"",
    said_comment: int | None = None,
    shift: int = 0,
    zip64: bytes = b"",
) -> bytes:
    body = directory = b""
    for one in entries:
        directory += one.entry(len(body))
        body += one.header()
    number = len(entries) if count is None else count
    said = len(comment) if said_comment is None else said_comment
    end = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, number, number, len(directory), len(body) + shift, said)
    return body + directory + zip64 + end + comment


def entries(pickle: bytes = HARMLESS, **of_the_data: object) -> list[Entry]:
    """The records of a checkpoint, with changes to that of its tensor."""
    return [
        Entry(b"archive/data.pkl", pickle),
        Entry(b"archive/byteorder", b"little"),
        dataclasses.replace(Entry(b"archive/data/0", bytes(16)), **of_the_data),
        Entry(b"archive/data/1", b"\x09\0\0\0\0\0\0\0" * 4),
        Entry(b"archive/version", b"3\n"),
    ]


def with_manifest(manifest: bytes | dict[str, object]) -> bytes:
    records = entries()
    if isinstance(manifest, dict):
        values = {
            "format_version": 1, "kind": "checkpoint", "index": 1, "created": "2026-01-02T03:04:05Z",
            "run_id": "a", "save_number": 1, "metrics": {}, "versions": {},
            "records": [
                {"name": one.name.decode(), "size": len(one.data), "crc32": zlib.crc32(one.data)}
                for one in records
            ],
        }  # fmt: skip
        manifest = json.dumps(values | manifest).replace('"RAW', "").replace('WAR"', "").encode()
    return zipped([*records, Entry(b"archive/.marlin/manifest.json", manifest)])


def deflated(megabytes: int) -> bytes:
    """Zeros by the megabyte, for some hundred bytes each."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(MEGABYTE)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * megabytes + b"\x03\x00"


BOMB = {"method": 8, "size": 4000 * MEGABYTE, "crc32": 1}
CORRUPT = NO_CHECKPOINT = (3,)
EITHER = (0, 3)
DEEP = b"[" * 100_000


def renamed(name: bytes) -> bytes:
    return zipped([*entries(), Entry(name, b"x")])


def zip64_entry(values: bytes) -> bytes:
    extra = struct.pack("<HH", 1, len(values)) + values
    return zipped(entries(size=0xFFFFFFFF, extra=extra))


def zip64_end(**lies: int) -> bytes:
    """A zip whose 64-bit end says otherwise than its 32-bit one."""
    plain = zipped(entries())
    _, _, _, _, count, size, offset, _ = struct.unpack("<4sHHHHLLH", plain[-22:])
    told = {"count": count, "size": size, "offset": offset, "at": offset + size} | lies
    end = struct.pack(
        "<4sQHHLLQQQQ",
        b"PK\6\6",
        44,
        45,
        45,
        0,
        0,
        told["count"],
        told["count"],
        told["size"],
        told["offset"],
    )
    return zipped(entries(), zip64=end + struct.pack("<4sLQL", b"PK\6\7", 0, told["at"], 1))


def zips() -> list[Hostile]:
    whole = zipped(entries())
    bomb = deflated(4000)
    first = entries()[0]
    lies = {
        "deflated bomb for the data": zipped(entries(data=bomb, **BOMB)),
        "deflated bomb for the pickle": zipped(
            [dataclasses.replace(first, data=bomb, **BOMB), *entries()[1:]]
        ),
        "deflated bomb for the manifest": zipped(
            [*entries(), Entry(b"archive/.marlin/manifest.json", bomb, **BOMB)]
        ),
        "deflated bomb that says it is stored": zipped(entries(data=bomb, size=len(bomb), local_size=16)),
        "a method that is none": zipped(entries(method=99)),
        "a CRC that lies": zipped(entries(crc32=1)),
        "a record longer than the file": zipped(entries(size=2**31)),
        "a record shorter than its header says": zipped(entries(size=3)),
        "a header longer than the record": zipped(entries(local_size=2**31)),
        "records on one another": zipped(entries(offset=0)),
        "records behind the directory": zipped(entries(offset=2**31)),
        "another name in the header": zipped(entries(local_name=b"archive/data/9")),
        "a directory for a record": zipped(entries(attributes=0x10)),
        "two records of one name": renamed(b"archive/data/0"),
        "a name that is not UTF-8": renamed(b"archive/\xff\xfe"),
        "zip64 without its values": zip64_entry(b""),
        "zip64 with half a value": zip64_entry(b"\1\2\3"),
        "zip64 of 2^63": zip64_entry(struct.pack("<Q", 2**63)),
        "zip64 of 2^64-1": zip64_entry(b"\xff" * 16),
        "zip64 end far away": zip64_end(at=2**62),
        "zip64 end at 2^64-1": zip64_end(at=2**64 - 1),
        "zip64 end at the start": zip64_end(at=0),
        "zip64 of 2^40 entries": zip64_end(count=2**40),
        "zip64 directory of 2^62": zip64_end(size=2**62),
        "zip64 directory at 2^63": zip64_end(offset=2**63),
        "zip64 directory that starts in front": zip64_end(offset=2**64 - 1, size=1),
        "no entry counted": zipped(entries(), count=0),
        "an entry too few counted": zipped(entries(), count=4),
        "65,535 entries counted": zipped(entries(), count=65_535),
        "a directory elsewhere": zipped(entries(), shift=7),
        "a comment that is not there": zipped(entries(), said_comment=9),
        "a second end in the comment": zipped(entries(), comment=whole[-22:]),
        "bytes in front": b"PK\3\4" + bytes(100) + whole,
        "two zips in a row": whole + whole,
        "nothing but the signature": b"PK\3\4",
        "nothing but an end record": whole[-22:],
    }
    made = [Hostile(f"zip: {title}", data, verified=CORRUPT) for title, data in lies.items()]
    made[-1] = dataclasses.replace(made[-1], verified=EITHER)
    oddities = {
        "encrypted": zipped(entries(flags=1)),
        "a comment of 65,535 bytes": zipped(entries(), comment=b"c" * 65_535),
        "a path upwards": renamed(b"../../../../etc/passwd"),
        "a path upwards in the archive": renamed(b"archive/../../x"),
        "an absolute path": renamed(b"/etc/passwd"),
        "a path of another system": renamed(b"C:\\Windows\\x"),
        "a NUL in a name": renamed(b"archive/data/0\0.txt"),
        "a name of escapes": renamed(b"archive/\x1b[2J\x07\xe2\x80\xae"),
        "no name": renamed(b""),
        "a name of 65,000 bytes": renamed(b"archive/" + b"n" * 65_000),
        "two pickles": renamed(b"other/data.pkl"),
        "another byte order": zipped([first, Entry(b"archive/byteorder", b"evil"), *entries()[2:]]),
        "a version of 100,000 digits": zipped([*entries()[:-1], Entry(b"archive/version", b"9" * 100_000)]),
        "no version": zipped(entries()[:-1]),
        "a zip in a zip": zipped([Entry(b"archive/data.pkl", whole), *entries()[1:]]),
        "a zip of something else": zipped([Entry(b"word/document.xml", b"<x/>")]),
        "10,000 records": zipped([*entries(), *(Entry(b"archive/data/%d" % n, b"") for n in range(2, 9999))]),
        "alignment of nothing": zipped([*entries(), Entry(b"archive/.storage_alignment", b"0")]),
    }  # fmt: skip
    return made + [
        Hostile(f"zip: {title}", data, "perhaps", verified=EITHER) for title, data in oddities.items()
    ]


def manifests() -> list[Hostile]:
    lies: dict[str, bytes | dict[str, object]] = {
        "is empty": b"",
        "is no JSON": b"{",
        "is nested 100,000 deep": DEEP,
        "is a list": b"[]",
        "is a number of 5,000 digits": b"9" * 5000,
        "is broken UTF-8": b'{"kind": "\xff"}',
        "is of no known format": {"format_version": -1},
        "has a format nested deep": b'{"format_version":' + DEEP + b"}",
        "is of another kind": {"kind": "trojan"},
        "has a kind of controls": {"kind": "\x1b[2J\x1b]52;c;ZXZpbA==\x07"},
        "has an index that is no number": {"index": "RAWNaNWAR"},
        "has an infinite index": {"index": "RAW1e999WAR"},
        "has an index of 5,000 digits": {"index": "RAW" + "9" * 5000 + "WAR"},
        "has metrics in a list": {"metrics": [["a", 1]]},
        "has a metric of 400 digits": {"metrics": {"a": 10**400}},
        "has a metric that is a list": {"metrics": {"a": []}},
        "has versions of a number": {"versions": 3},
        "lists no records": {"records": []},
        "lists a million records": {"records": "RAW[" + "0," * 1_000_000 + "0]WAR"},
        "lists nothing": {"records": None},
    }
    made = [
        Hostile(f"manifest: {title}", with_manifest(lie), verified=CORRUPT) for title, lie in lies.items()
    ]
    listed = {
        "has metrics of controls": {
            "metrics": {"\x1b[31mloss\x07": 1.0, "a\nb": 2.0, "\u202egnp": float("nan")}
        },
        "has metrics of markup": {"metrics": {"[red]a[/]": 1.0, "[link=x]": 2.0}},
        "has a key twice": {"kind": 'RAW"model", "kind": "checkpoint"WAR'},
        "has a save number of 300 digits": {"save_number": "RAW1e300WAR"},
        "has versions of controls": {"versions": {"\x1b[2J": "\x1b[2J"}, "run_id": "\x1b[2J\udcff"},
        "is nested 500 deep in its versions": {"versions": {"a": "RAW" + "[" * 500 + "]" * 500 + "WAR"}},
    }
    made += [
        Hostile(f"manifest: {title}", with_manifest(lie), "perhaps", EITHER) for title, lie in listed.items()
    ]
    swollen = with_manifest(b"[" + b"[]," * (20 * MEGABYTE) + b"0]")
    return [*made, Hostile("manifest: is 60 MB of empty lists", swollen, verified=CORRUPT, group="swollen")]
