"""Which format a file is of, told by its structure, or what it is instead of a checkpoint."""

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


class Format(StrEnum):
    """How a file is encoded."""

    ZIP = "zip"
    LEGACY = "legacy"
    SAFETENSORS = "safetensors"


class Foreign(NamedTuple):
    """What a file is that is no checkpoint.

    Attributes:
        what: in words, `an empty file`.
        hint: what to do about it, or "".
    """

    what: str
    hint: str = ""


_UNPACK = "unpack it first"
# First bytes, where they stand, what the file is and what to do about it. Source of each: the format's own
# specification, and magic(5).
_SIGNATURES = (
    (0, b"version https://git-lfs.", Foreign("a git-lfs pointer", "`git lfs pull` fetches the file")),
    (0, b"GGUF", Foreign("a GGUF file", "llama.cpp and the package gguf read it")),
    (0, b"\x89HDF\r\n\x1a\n", Foreign("an HDF5 file", "Keras and h5py read it")),
    (0, b"\x93NUMPY", Foreign("a NumPy file", "numpy.load reads it")),
    (0, b"\x1f\x8b", Foreign("a gzip file", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Foreign("a Zstandard file", _UNPACK)),
    (0, b"\xfd7zXZ\x00", Foreign("an xz file", _UNPACK)),
    (0, b"BZh", Foreign("a bzip2 file", _UNPACK)),
    (257, b"ustar", Foreign("a tar file", _UNPACK)),
    (0, b"\x80", Foreign("a bare pickle")),
)  # fmt: skip


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
    if head[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and length <= source.size_bytes - _LENGTH_BYTES:
        return Format.SAFETENSORS
    for at, signature, foreign in _SIGNATURES:
        if head.startswith(signature, at):
            return foreign
    return _without_signature(head, source.size_bytes)


def _without_signature(head: bytes, size_bytes: int) -> Foreign:
    if not head:
        return Foreign("an empty file")
    if not any(head) and size_bytes >= len(head):
        return Foreign("a file that begins with zeros", "a crash or a full disk may have left it")
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return Foreign("a web page", "download the file itself: a server sent this page in its place")
    if all(byte in b"\t\n\r" or byte >= ord(" ") for byte in head) and b"\x7f" not in head:
        return Foreign("a text file")
    return Foreign("neither a zip nor a torch file")


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
