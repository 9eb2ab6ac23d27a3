"""Verifies and inspects one checkpoint, by its path: `marlin_ckpt.verify` and `marlin_ckpt.inspect`."""

import os

from marlin_ckpt.directory import catalog
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats import verification
from marlin_ckpt.formats.content.contents import Contents, read_contents
from marlin_ckpt.formats.verdicts import Verdict
from marlin_ckpt.storage.local.files import again_if_stale, doing, open_source

_MOST_NAMES = 3


def verify(path: PathText) -> Verdict:
    """Reads a whole checkpoint and checks every checksum, as `marlin-ckpt verify` does.

    No code of the file is run, and torch is not imported.

    Args:
        path: a file, or a folder that is one checkpoint.

    Returns:
        the verdict. A damaged file, or one that is no checkpoint, is a verdict and no exception.

    Raises:
        CheckpointNotFoundError: there is no such file.
        StorageError: the file cannot be read.
        MarlinError: the path is a directory that is not one checkpoint.
    """
    text = os.fspath(path)
    if found := catalog.entry(text):
        return verification.verify(found)
    if os.path.isdir(text):
        hint = f"verify each of its checkpoints; `marlin-ckpt verify {text}` does"
        raise MarlinError("a directory, not one checkpoint", text, hint)
    return verification.verify(text)


def inspect(path: PathText) -> Contents:
    """Reads what a file holds without the data of its tensors, as `marlin-ckpt show` does.

    No code of the file is run, and torch is not imported.

    Args:
        path: a file that `torch.save`, safetensors or marlin-ckpt wrote.

    Returns:
        the tree of its values, its tensors, its manifest, and what loading it would import.

    Raises:
        CheckpointNotFoundError: there is no such file.
        StorageError: the file cannot be read.
        CorruptCheckpointError: bytes are missing or changed.
        NotACheckpointError: the file is something else.
        UnknownFormatError: a newer marlin-ckpt wrote the file.
        UnsafeCheckpointError: reading it would take more time or memory than a file of this length needs.
        MarlinError: the path is a directory.
    """
    text = os.fspath(path)
    if os.path.isdir(text):
        with doing("cannot read the directory", text):
            names = sorted(os.listdir(text))
        some = ", ".join(names[:_MOST_NAMES]) + ", ..." * (len(names) > _MOST_NAMES)
        raise MarlinError("a directory, not a file", text, f"inspect one of its files: {some}" * bool(names))

    def read() -> Contents:
        with open_source(text) as source:
            return read_contents(source)

    return again_if_stale(read)
