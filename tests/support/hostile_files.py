"""Makes hostile files in a directory, each in a sub-directory of its own, and lists what to expect of it."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from collections.abc import Callable

from tests.support import hostile_pickles as pickles
from tests.support.hostile_contents import outlines
from tests.support.hostile_zips import (
    CORRUPT,
    MEGABYTE,
    NO_CHECKPOINT,
    Entry,
    Hostile,
    entries,
    manifests,
    zipped,
    zips,
)

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# Of the tensors, those whose storage has no record of its length.
_WITHOUT_THEIR_DATA = {
    "numel too large", "numel of 2^31", "numel of 2^62", "numel of 2^80", "numel negative",
    "wider type than the record", "storage that is not there", "storage of another path",
    "storage of an absolute path", "storage that is the pickle",
}  # fmt: skip


def legacy(pickle: bytes) -> bytes:
    system = pickles.PROTOCOL + b"}(" + pickles.text("protocol_version") + pickles.number(1001)
    system += pickles.text("little_endian") + b"\x88u."
    return LEGACY_MAGIC + pickles.PROTOCOL + b"M\xe9\x03." + system + pickle + pickles.PROTOCOL + b"]."


def from_pickles() -> list[Hostile]:
    made = [
        Hostile(
            f"calls {module[:30]}.{name[:30]}",
            zipped(entries(pickles.state(pickles.call(module, name, *given)))),
        )
        for module, name, given in pickles.CALLS
    ]
    made += [Hostile(f"trick: {title}", zipped(entries(data))) for title, data in pickles.TRICKS.items()]
    made += [
        Hostile(
            f"tensor: {title}",
            zipped(entries(pickles.state(data))),
            verified=CORRUPT if title in _WITHOUT_THEIR_DATA else (0,),
        )
        for title, data in pickles.TENSORS.items()
    ]
    made += [
        Hostile(
            f"costly: {title}",
            zipped(entries(data)),
            "perhaps",
            group="slow" if len(data) > 200_000 else "ordinary",
        )
        for title, data in pickles.COSTLY.items()
    ]
    made += [
        Hostile(f"amplified: {title}", zipped(entries(data)), "perhaps", group="amplified")
        for title, data in pickles.AMPLIFIED.items()
    ]
    # Where a CRC is wrong, the pickle is walked for the names of the tensors.
    deep = pickles.COSTLY["tuples nested 5,000 deep as the key"]
    made += [
        Hostile(f"corrupt with {title}", zipped(entries(data, crc32=1)), verified=CORRUPT)
        for title, data in {
            "a tensor under a key nested 5,000 deep": deep[:-3] + pickles.tensor() + b"s.",
            "an object by NEWOBJ": pickles.state(pickles.imported("argparse", "Namespace") + b")\x81}b"),
            "10,000 names to import": pickles.TRICKS["10,000 names to import"],
        }.items()
    ]
    walked = {**pickles.AMPLIFIED, "8,000,000 empty lists": pickles.state(b"](" + b"]" * 8_000_000 + b"e")}
    made += [
        Hostile(
            f"amplified in a corrupt file: {title}",
            zipped(entries(data, crc32=1)),
            verified=(3,),
            group="amplified",
        )
        for title, data in walked.items()
    ]
    code = pickles.state(pickles.call("os", "system", pickles.text("touch ran")))
    made += [
        Hostile("legacy with code", legacy(code)),
        Hostile("legacy with code in front", LEGACY_MAGIC + code, verified=CORRUPT),
        Hostile("legacy with a memo index of nothing", legacy(pickles.state(b"h\x07")), verified=CORRUPT),
        Hostile("legacy with a string of 2^32-1", legacy(pickles.TRICKS["string of 2^32-1"]),
                verified=CORRUPT),
        Hostile("legacy with a storage of 2^40", legacy(pickles.state(pickles.tensor(stored=pickles.tuple_of(
            pickles.text("storage"), pickles.imported("torch", "FloatStorage"), pickles.text("0"),
            pickles.text("cpu"), pickles.number(2**40), b"N") + b"Q"))), verified=CORRUPT),
        Hostile("legacy and nothing more", LEGACY_MAGIC, verified=CORRUPT),
        Hostile("bare pickle with code", code),
        Hostile("bare pickle of protocol 0 with code", b"cos\nsystem\n(S'touch ran'\ntR.",
                verified=NO_CHECKPOINT),
        Hostile("bare pickle of protocol 4 with code",
                b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch ran\x85R."),
        Hostile("pickle as TorchScript with code", zipped([
            *entries(code), Entry(b"archive/constants.pkl", code), Entry(b"archive/code/x.py", b"import os"),
        ])),
    ]  # fmt: skip
    return made


def safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def weights() -> list[Hostile]:
    entry = b'{"dtype":"U8","shape":[1],"data_offsets":'
    lies = {
        "a header of 2^63": safetensors(b"{}", length=2**63),
        "a header of 2^64-1": safetensors(b"{}", length=2**64 - 1),
        "a header longer than the file": safetensors(b"{}", length=3),
        "a header nested 100,000 deep": safetensors(b'{"a":' * 100_000),
        "a header of a string": safetensors(b'{"a":"b"}'),
        "a header that ends early": safetensors(b'{"a"'),
        "tensors on one another": safetensors(
            b'{"a":' + entry + b'[0,9]},"b":' + entry + b"[4,9]}}", bytes(9)
        ),
        "a tensor of negative length": safetensors(b'{"a":' + entry + b"[5,0]}}", bytes(5)),
        "an infinite offset": safetensors(b'{"a":' + entry + b"[0,Infinity]}}", bytes(5)),
        "an offset of 1e999": safetensors(b'{"a":' + entry + b"[1e999,1]}}", bytes(5)),
        "an offset that is NaN": safetensors(b'{"a":' + entry + b"[0,NaN]}}", bytes(5)),
        "an offset of 5,000 digits": safetensors(b'{"a":' + entry + b"[0," + b"9" * 5000 + b"]}}", bytes(5)),
        "offsets of lists": safetensors(b'{"a":' + entry + b"[[],{}]}}", bytes(5)),
        "broken UTF-8": safetensors(b'{"\xff":1}'),
    }
    made = [Hostile(f"safetensors: {title}", lie, verified=CORRUPT) for title, lie in lies.items()]
    swollen = safetensors(b'{"a":[' + b"[]," * (20 * MEGABYTE) + b"0]}")
    return [*made, Hostile("safetensors: 60 MB of empty lists", swollen, verified=CORRUPT, group="swollen")]


def nodes() -> list[Hostile]:
    """What is not a regular file, or not at the name that it seems to be."""

    def bound(path: str) -> None:
        # The path of a socket has at most 108 bytes: bind it by its name alone.
        here = os.getcwd()
        os.chdir(os.path.dirname(path))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.basename(path))
        os.chdir(here)

    def sparse(path: str) -> None:
        with open(path, "wb") as file:
            file.truncate(1 << 40)

    def sparse_zip(path: str) -> None:
        with open(path, "wb") as file:
            file.write(b"PK\3\4")
            file.truncate(1 << 40)

    def fifo_behind_a_link(path: str) -> None:
        os.mkfifo(path + ".fifo")
        os.symlink(path + ".fifo", path)

    def loop(path: str) -> None:
        os.symlink(path + ".b", path)
        os.symlink(path, path + ".b")

    irregular: dict[str, tuple[Callable[[str], None], tuple[int, ...]]] = {
        "FIFO": (os.mkfifo, (1,)),
        "FIFO behind a link": (fifo_behind_a_link, (1,)),
        "socket": (bound, (1,)),
        "directory": (os.mkdir, (4,)),
        "directory in itself": (lambda path: os.symlink(os.path.dirname(path), path), (4,)),
        "link to itself": (lambda path: os.symlink(path, path), (1,)),
        "links in a loop": (loop, (1,)),
        "link that leads nowhere": (lambda path: os.symlink("/nonexistent/x", path), (4,)),
        "link to endless zeros": (lambda path: os.symlink("/dev/zero", path), (1,)),
        "link to endless noise": (lambda path: os.symlink("/dev/urandom", path), (1,)),
        "link to a terminal": (lambda path: os.symlink("/dev/tty", path), (1,)),
    }
    made = [Hostile(f"node: {title}", make, "error", codes) for title, (make, codes) in irregular.items()]
    return [
        *made,
        Hostile(
            "node: link to a file of the system",
            lambda path: os.symlink("/proc/self/maps", path),
            verified=NO_CHECKPOINT,
        ),
        Hostile("node: empty file", b"", verified=NO_CHECKPOINT),
        Hostile("node: hole of a terabyte", sparse, verified=NO_CHECKPOINT),
        Hostile("node: hole of a terabyte that starts as a zip", sparse_zip, verified=(3,)),
        Hostile("node: one byte", b"P", verified=NO_CHECKPOINT),
        Hostile("node: escapes", b"\x1b[2J\x1b]52;c;ZXZpbA==\x07" * 100, verified=NO_CHECKPOINT),
    ]


def names() -> list[Hostile]:
    """A file that is refused, under names that attack a terminal, a renderer or a parser."""
    hostile = [
        b"\x1b[31mred_1.pt", b"\x1b]52;c;ZXZpbA==\x07_1.pt", b"new\nline_1.pt", b"return\r_1.pt",
        b"[red]_1.pt", b"[bold_1.pt", b"\xff\xfe_1.pt", "bidi\u202egnp_1.pt".encode(), b"-rf_1.pt",
        b"$(touch ran)_1.pt", b"`touch ran`_1.pt", b"%s%n{0}_1.pt",
        b"model_" + b"9" * 240 + b".pt", b"n" * 250 + b"_1.pt",
    ]  # fmt: skip
    refused = zipped(entries(pickles.state(pickles.call("os", "system", pickles.text("touch ran")))))
    return [Hostile(f"name: {name!r}", refused, name=name) for name in hostile]


def make_all(directory: str, groups: set[str]) -> list[dict[str, object]]:
    """Makes the files of some groups, and lists them."""
    made = [*from_pickles(), *zips(), *manifests(), *weights(), *nodes(), *names(), *outlines()]
    listed = []
    for number, one in enumerate(made):
        if one.group not in groups:
            continue
        parent = os.fsencode(os.path.join(directory, f"{number:03d}"))
        os.mkdir(parent)
        path = os.path.join(parent, one.name)
        if isinstance(one.content, bytes):
            with open(path, "wb") as file:
                file.write(one.content)
        else:
            one.content(os.fsdecode(path))
        values = {name: getattr(one, name) for name in ("title", "loads", "verified", "group")}
        trained = one.title.startswith(("calls os.", "calls torch", "legacy with code", "zip: a record"))
        listed.append({**values, "path": os.fsdecode(path), "trained": trained})
    return listed


if __name__ == "__main__":
    json.dump(make_all(sys.argv[1], set(sys.argv[2:])), sys.stdout)
