"""Reads the tensors of a folder: each from its file, and what is sharded from the files of its pieces."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from marlin_ckpt.formats.content.contents import Contents
from marlin_ckpt.formats.values.arrays import Array
from marlin_ckpt.formats.values.checked import Checked, CheckedFile
from marlin_ckpt.formats.values.pieces import Open, put_together
from marlin_ckpt.formats.values.tensor import TensorInfo, contiguous_stride
from marlin_ckpt.formats.values.window import Memory
from marlin_ckpt.storage.source import Source

MOST_OPEN = 200  # files; a process may have 1,024 open: getrlimit(2)


class CheckedFolder(Checked):
    """A folder as `Checked`.

    Args:
        contents: of it.
        open_file: opens one of its files, by its name in the folder.
        stack: closes what was opened.
        files: the names of its files.
    """

    def __init__(
        self, contents: Contents, open_file: Open, stack: contextlib.ExitStack, files: Sequence[str]
    ) -> None:
        self.contents, self.files = contents, files
        self._open, self._stack, self._lock = open_file, stack, threading.Lock()
        self._files: dict[str, CheckedFile] = {}
        self._own = dict(_files_of(contents))

    def open_file(self, name: str) -> AbstractContextManager[Source]:
        """Opens one of its files; see `Checked.open_file`."""
        return self._open(name)

    def source_of(self, tensor: TensorInfo) -> Source:
        """The file that a tensor lies in; see `Checked.source_of`."""
        return self._file(tensor.file).source_of(tensor)

    def _file(self, name: str) -> CheckedFile:
        if found := self._files.get(name):  # without the lock, for which every piece would wait
            return found
        with self._lock:
            if name not in self._files:
                if len(self._files) < MOST_OPEN:
                    source = self._stack.enter_context(self._open(name))
                else:
                    source = Reopened(self._open, name)
                self._files[name] = CheckedFile(source, self._own[name])
            return self._files[name]

    def confirm(self, tensor: TensorInfo, crc32: int) -> None:
        """Compares a checksum; see `Checked.confirm`."""
        self._file(tensor.file).confirm(tensor, crc32)

    def check(self, tensor: TensorInfo, place: memoryview | None = None) -> bool:
        """Compares a tensor's checksum; of one in pieces reading it does. See `Checked.check`."""
        return False if tensor.pieces else self._file(tensor.file).check(tensor, place)

    def bits(self, tensor: TensorInfo) -> Array:
        """Reads a tensor, and puts its pieces together; see `Checked.bits`."""
        if not tensor.pieces:
            return self._file(tensor.file).bits(tensor)
        return put_together(tensor, self._open, self.contents.path)


class Reopened:
    """A file that is opened for each read, where too many are open."""

    def __init__(self, open_file: Open, name: str) -> None:
        self._open, self._name = open_file, name
        with open_file(name) as source:
            self.path, self.size_bytes = source.path, source.size_bytes

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fills a buffer; see `Source.read_into`."""
        with self._open(self._name) as source:
            return source.read_into(offset, buffer)

    def read(self, offset: int, size: int) -> bytes:
        """Reads bytes; see `Source.read`."""
        with self._open(self._name) as source:
            return source.read(offset, size)


def _files_of(contents: Contents, above: str = "") -> Iterator[tuple[str, Contents]]:
    for name, part in contents.parts:
        own = f"{above}/{name}" if above else name
        if part.parts:
            yield from _files_of(part, own)
        else:
            yield own, part


@contextmanager
def whole(checked: Checked, tensor: TensorInfo) -> Iterator[tuple[Source, TensorInfo]]:
    """A tensor as one of a file of its own, for what reads it in blocks: one in pieces is put together first.

    Raises:
        BadFileError, StorageError: as `Checked.bits` raises them.
    """
    if not tensor.pieces:
        yield checked.source_of(tensor), tensor
        return
    data = checked.bits(tensor).view(np.uint8).data
    stride = contiguous_stride(tensor.shape)
    there = TensorInfo(tensor.name, tensor.dtype, tensor.shape, stride, 0, "", 0, len(data))
    yield Memory(checked.contents.path, data), there
