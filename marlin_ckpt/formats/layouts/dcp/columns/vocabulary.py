"""What the `.metadata` of marlin-ckpt is made of, for whoever writes it and whoever reads it.

Source: `torch.distributed.checkpoint.metadata` and `_StorageInfo` in its filesystem.py, torch 2.13.
"""

from __future__ import annotations

from marlin_ckpt.formats.layouts.dcp.columns.forms import Form, Index, Number

VALUES = "torch.distributed.checkpoint.metadata"
STORED = "torch.distributed.checkpoint.filesystem"
VERSION = "1.0.0"  # CURRENT_DCP_VERSION of torch/distributed/checkpoint/filesystem.py
# The numbers under which the pickle keeps what it has once: BINGET takes one byte.
_HOMES = {
    "Size": "torch", "ChunkStorageMetadata": VALUES, "MetadataIndex": VALUES, "_StorageInfo": STORED,
    "TensorStorageMetadata": VALUES,
}  # fmt: skip
_WORDS = (
    "offsets", "sizes", "fqn", "offset", "index", "relative_path", "length", "properties", "size", "chunks",
)  # fmt: skip
_NUMBERS = {name: number for number, name in enumerate((*_HOMES, *_WORDS))}
FIRST = len(_NUMBERS)  # that is free


def named(module: str, name: str) -> bytes:
    """What puts a class on the stack."""
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    """What puts a text on the stack."""
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + len(data).to_bytes(4, "little") + data


def kept(number: int) -> bytes:
    """What keeps what is on top of the stack under a number, and takes it from there."""
    return b"r" + number.to_bytes(4, "little") + b"0"


def known(number: int) -> bytes:
    """What puts what is kept under a number on the stack."""
    return b"j" + number.to_bytes(4, "little")


def get(name: str) -> bytes:
    """What puts a class or a word of the vocabulary on the stack."""
    return b"h" + bytes([_NUMBERS[name]])


START = b"".join([
    b"\x80\x02",
    *(named(module, name) + kept(_NUMBERS[name]) for name, module in _HOMES.items()),
    *(text(word) + kept(_NUMBERS[word]) for word in _WORDS),
])  # fmt: skip
# TensorProperties.__getstate__: the dtype, the layout, requires_grad, the memory format, pinned.
PROPERTIES = named(VALUES, "TensorProperties") + b")\x81(ctorch\n", b"".join([
    b"\n", named("torch.serialization", "_get_layout"), text("torch.strided"), b"\x85R\x89",
    named(VALUES, "_MEM_FORMAT_ENCODING"), b"K\x00\x85R\x89tb",
])  # fmt: skip
METADATA = named(VALUES, "Metadata") + b")\x81}(" + text("state_dict_metadata") + b"}("
VALUE = named(VALUES, "BytesStorageMetadata") + b")\x81"
# A tensor: the number of its properties, its shape, its chunks.
TENSOR = (
    get("TensorStorageMetadata") + b")\x81}(" + get("properties") + b"j",
    get("size") + get("Size") + b"(",
)
LENGTH = b"\x8a\x08"  # of a tensor in one dimension; eight bytes follow
CHUNKS = b"t\x85R" + get("chunks") + b"](", b"eub"
PATHS = b"u" + text("planner_data") + b"}("
PLACES = b"u" + text("storage_data") + b"}("
END = b"u" + text("storage_meta") + b"N" + text("version") + text(VERSION) + b"ub."

CHUNK: Form = (
    get("ChunkStorageMetadata") + b")\x81}(" + get("offsets") + b"j", Index("offsets"),
    get("sizes") + b"j", Index("sizes"), b"ub",
)  # fmt: skip
_INFO: Form = (
    get("_StorageInfo") + b")\x81}(" + get("relative_path") + b"j", Index("file"),
    get("offset"), Number("start"), get("length"), Number("size"), b"ub",
)  # fmt: skip
_ITEM = get("MetadataIndex") + b")\x81}(" + get("fqn") + b"j"
PIECE: Form = (
    _ITEM, Index("name"), get("offset") + b"j", Index("offsets"),
    get("index"), Number("index"), b"ub", *_INFO,
)  # fmt: skip
PLACE: Form = (_ITEM, Index("name"), get("index") + b"Nub", *_INFO)


def sizes(dimensions: int) -> Form:
    """A `torch.Size`, which is kept under a number."""
    each = (Number(str(one)) for one in range(dimensions))
    return (get("Size") + b"(", *each, b"t\x85Rr", Index("number"), b"0")
