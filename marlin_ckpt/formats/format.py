"""Which format a file is of, told by its structure, or what it is instead of a checkpoint."""

import os
import re
from enum import StrEnum
from typing import NamedTuple

from marlin_ckpt.errors import CorruptCheckpointError, NotACheckpointError
from marlin_ckpt.formats.zip import reader as zip_reader
from marlin_ckpt.formats.zip import structures
from marlin_ckpt.storage.source import Source

# A legacy torch file starts with this pickled number, torch.serialization.MAGIC_NUMBER.
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_HEAD_BYTES = 264  # a tar file names itself at offset 257
_LENGTH_BYTES = 8  # of the length that a safetensors file begins with
LARGEST_HEADER = 100 << 20  # bytes, by the specification of safetensors
_SHARD = ".distcp"  # the end of a name, by torch.distributed.checkpoint.filesystem


class Format(StrEnum):
    """How a file is encoded.

    ZIP is what `torch.save` writes since torch 1.6, LEGACY what it wrote before. PICKLE is what `pickle.dump`
    writes: its contents can be shown, and it is never loaded.
    """

    ZIP = "zip"
    LEGACY = "legacy"
    SAFETENSORS = "safetensors"
    PICKLE = "pickle"


class Foreign(NamedTuple):
    """What a file is that is no checkpoint.

    Attributes:
        what: in words, `an empty file`.
        hint: what to do about it, or "".
    """

    what: str
    hint: str = ""


# First bytes as a pattern, what the file is, and what to do about it. The first that fits counts.
# Source of each: the format's own specification, and magic(5).
_INTO_SHOW = " | marlin-ckpt show -` looks into it"
_NEMO = Foreign("a .nemo file, which is a tar", "`tar -xf FILE` unpacks model_weights.ckpt and the rest")
_MESSAGE = "a server or a script may have left this message in place of the file: fetch it again"
_FOREIGN = tuple(
    (pattern, Foreign(what, hint))  # compiled when the first file is none of the usual ones
    for pattern, what, hint in (
        (rb"\Z", "an empty file", "a full disk or a stopped transfer may have left it: fetch it again"),
        (rb"\0+\Z", "a file that begins with zeros", "a crash or a full disk may have left it"),
        (rb"version https://git-lfs\.", "a git-lfs pointer", "`git lfs pull` fetches the file"),
        (rb"GGUF", "a GGUF file", "`gguf-dump FILE`, of the package gguf, lists its tensors"),
        (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", "Keras and h5py read it"),
        (rb"\x93NUMPY", "a NumPy file", "numpy.load reads it"),
        (rb"\x1f\x8b", "a gzip file", f"`gunzip < FILE{_INTO_SHOW}; `tar -xf FILE` unpacks a .tar.gz"),
        (rb"\x28\xb5\x2f\xfd", "a Zstandard file", f"`zstd -d < FILE{_INTO_SHOW}"),
        (rb"\xfd7zXZ\0", "an xz file", f"`xz -d < FILE{_INTO_SHOW}; `tar -xf FILE` unpacks a .tar.xz"),
        (rb"BZh[1-9]", "a bzip2 file", f"`bunzip2 < FILE{_INTO_SHOW}; `tar -xf FILE` unpacks a .tar.bz2"),
        (rb"\x04\x22\x4d\x18", "an lz4 file", f"`lz4 -d < FILE{_INTO_SHOW}"),
        (rb"7z\xbc\xaf\x27\x1c", "a 7z file", "unpack it first: `7z x FILE`"),
        (rb"Rar!\x1a\x07", "a RAR file", "unpack it first: `unrar x FILE`"),
        (rb".{257}ustar", "a tar file", "unpack it first: `tar -xf FILE`"),
        (rb"PK\x05\x06", "an empty zip", "fetch the file again"),
        (rb"\x7fELF", "a program or a library", ""),
        (rb"\x89PNG\r\n", "a PNG image", ""),
        (rb"\xff\xd8\xff", "a JPEG image", ""),
        (rb"%PDF-", "a PDF file", ""),
        (rb"SQLite format 3\0", "an SQLite database", "`sqlite3 FILE` opens it"),
        (rb"PAR1", "a Parquet file", "pandas.read_parquet reads it"),
        (rb".{4}TFL3", "a TensorFlow Lite file", "the package tflite reads it"),
        (rb"\x08[\x01-\x20]\x12.{1,2}[ -~]", "an ONNX model or another protobuf", "onnx.load reads a model"),
        (rb"(?i)\s*<(!doctype html|html|head|body)", "a web page", _MESSAGE),
        (rb"(?i)\s*<\?xml", "an XML file", _MESSAGE),
        (rb'\s*\{.*"weight_map"', "an index of weights", "name the folder, or the files beside it"),
        (rb'\s*[{\[]\s*["{\[}\]]', "a JSON file", _MESSAGE),
    )
)  # fmt: skip
_NAMED_JSON = Foreign("a JSON file", "name the folder that it is in, or a file of weights beside it")
_TARS = tuple(one for _, one in _FOREIGN if one.what in ("a tar file", "a gzip file"))
_SIGNATURES: tuple[tuple[bytes, Format | Foreign], ...] = ((rb"\x80[\x02-\x05]", Format.PICKLE), *_FOREIGN)


def detect(source: Source) -> Format | Foreign:
    """Looks at the first bytes of a file.

    Raises:
        StorageError: it cannot be read.
    """
    head = source.read(0, _HEAD_BYTES)
    if head.startswith(structures.LOCAL_SIGNATURE):
        return Format.ZIP
    if head.startswith(_LEGACY_MAGIC):
        return Format.LEGACY
    # Before the signatures: the length of a header may begin with any byte.
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    is_header = (
        head[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and length <= source.size_bytes - _LENGTH_BYTES
    )
    ends_in_header = head[_LENGTH_BYTES : _LENGTH_BYTES + 2] == b'{"' and length <= LARGEST_HEADER
    if is_header or ends_in_header:
        return Format.SAFETENSORS
    for pattern, found in _SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return _by_name(found, source.path)
    if all(byte in b"\t\n\r" or byte >= ord(" ") for byte in head) and b"\x7f" not in head:
        return Foreign("a text file", "read it: a message may lie there in place of the file")
    return Foreign("neither a zip nor a torch file", "`file FILE` may tell more")


def _by_name(found: Format | Foreign, path: str) -> Format | Foreign:
    """What a file is by its first bytes, and by its name where that says more."""
    if found in _TARS and path.endswith(".nemo"):
        return _NEMO
    is_json = isinstance(found, Foreign) and found.what == _NAMED_JSON.what
    return _NAMED_JSON if is_json and path.endswith(".json") else found


def format_of(source: Source) -> Format:
    """The format of a file that is to be a checkpoint.

    Raises:
        NotACheckpointError: it is something else; the error says what, and what to do about it.
        CorruptCheckpointError: it ends as a checkpoint, but its first bytes are damaged.
        StorageError: it cannot be read.
    """
    found = detect(source)
    if isinstance(found, Format):
        return found
    if zip_reader.ends_as_a_checkpoint(source):
        raise CorruptCheckpointError("the first bytes are damaged", source.path)
    raise NotACheckpointError(f"not a checkpoint but {found.what}", source.path, found.hint)


def refuse_shard(source: Source) -> None:
    """Refuses a file that is a part of a sharded checkpoint, and which its folder's metadata alone can read.

    Raises:
        NotACheckpointError: it is one, by its name.
    """
    if source.path.endswith(_SHARD):
        folder = os.path.dirname(source.path) or os.curdir
        raise NotACheckpointError(
            "not a checkpoint but a shard of one", source.path, f"name its folder: {folder}"
        )
