"""Reads the values of tensors from a checkpoint, and compares the checksum of each record that has them."""

import sys
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np

from marlin_ckpt.errors import CheckpointNotFoundError, UnsafeCheckpointError
from marlin_ckpt.formats.content.contents import Contents, TensorInfo
from marlin_ckpt.formats.values import arrays, dtypes
from marlin_ckpt.formats.values.arrays import Array
from marlin_ckpt.formats.zip.records import check_crcs, read_records
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.source import Source

# The tensors that are read may be larger than the file by this much, but not more: with strides of 0, a few
# bytes make tensors of any size and number.
_FREE_BYTES = 32 << 20
_MOST_TIMES = 8


class Checked(Protocol):
    """A checkpoint whose tensors are read, and never without comparing the checksums that it has.

    Attributes:
        contents: of it.
        files: the names of a folder's files; a file has none.
    """

    contents: Contents
    files: Sequence[str] = ()

    def open_file(self, name: str) -> AbstractContextManager[Source]:
        """Opens one of `files`; what it raises depends on the folder."""
        raise CheckpointNotFoundError("no such file", name)

    def expect(self, tensors: Iterable[TensorInfo]) -> None:
        """Refuses to read tensors with far more elements than the file has bytes.

        Raises:
            UnsafeCheckpointError: they have.
        """
        size = sum(one.size_bytes for one in tensors)
        if size > _FREE_BYTES + _MOST_TIMES * self.contents.size_bytes:
            own = f"the {self.contents.size_bytes:,} of the file"
            what = f"refused: its tensors have elements of {size:,} bytes in {own}"
            raise UnsafeCheckpointError(what, self.contents.path)

    @abstractmethod
    def source_of(self, tensor: TensorInfo) -> Source:
        """The file that a tensor lies in, which has no pieces."""

    def confirm(self, tensor: TensorInfo, crc32: int) -> None:
        """Compares the checksum of a tensor's record, which the caller read, unless that was done before.

        Raises:
            CorruptCheckpointError: it differs from the file's.
        """

    def check(self, tensor: TensorInfo, place: memoryview | None = None) -> bool:
        """Reads a tensor's record, unless that was done before, and compares its checksum.

        Args:
            tensor: one of the file.
            place: memory for the record's data, exactly as long.

        Returns:
            whether the record was read.

        Raises:
            CorruptCheckpointError: it does not hold.
        """

    def bits(self, tensor: TensorInfo) -> Array:
        """Reads a tensor whole.

        Returns:
            its elements, flat, in row-major order; those of a dtype that numpy lacks as unsigned integers,
            and of one that is not known here, the bytes.

        Raises:
            CorruptCheckpointError: the checksum does not hold, or values are outside of the storage.
            UnknownFormatError: the dtype is not known here.
            StorageError: the file cannot be read.
        """

    def values(self, tensor: TensorInfo) -> Array:
        """Reads a tensor as `bits` does; dtypes that numpy lacks are widened to float32, which is exact."""
        return arrays.widened(self.bits(tensor), tensor.dtype)


class CheckedFile(Checked):
    """One file as `Checked`.

    Args:
        source: the file.
        contents: of it.
    """

    def __init__(self, source: Source, contents: Contents) -> None:
        self.contents = contents
        self._source = source
        self._container = container = contents.container
        self._records: dict[int, Record] = {}
        if container is not None and container.has_checksums:
            self._records = {container.data_offsets[one.name]: one for one in container.records if one.size}

    def source_of(self, tensor: TensorInfo) -> Source:
        """The file; see `Checked.source_of`."""
        del tensor
        return self._source

    def confirm(self, tensor: TensorInfo, crc32: int) -> None:
        """Compares a checksum; see `Checked.confirm`."""
        record = self._records.pop(tensor.start, None)
        if record is not None and self._container is not None:
            check_crcs(self._source, self._container, [(record, crc32)])

    def check(self, tensor: TensorInfo, place: memoryview | None = None) -> bool:
        """Compares a tensor's checksum; see `Checked.check`."""
        record = self._records.pop(tensor.start, None)
        if record is None or self._container is None:
            return False
        places = {} if place is None else {record.name: place}
        read_records(self._source, self._container, places, records=[record])
        return True

    def bits(self, tensor: TensorInfo) -> Array:
        """Reads a tensor; see `Checked.bits`."""
        if is_whole(tensor):
            kind = "u1" if tensor.is_opaque else dtypes.dtype(tensor.dtype).numpy
            values: Array = np.empty(tensor.size_bytes if tensor.is_opaque else tensor.numel, kind)
            if self.check(tensor, values.view(np.uint8).data):
                return values
            del values  # what is read below is as large
        self.check(tensor)
        return np.ascontiguousarray(arrays.read_bits(self._source, tensor)).reshape(-1)


def is_in_order(tensor: TensorInfo) -> bool:
    """Whether a tensor is stored contiguously and in the byte order of the processor."""
    end = tensor.offset * tensor.item_bytes + tensor.size_bytes
    is_inside = tensor.offset >= 0 and 0 < end <= tensor.storage_bytes
    if (
        tensor.pieces
        or tensor.record is not None
        or tensor.pickled is not None
        or tensor.byteorder != sys.byteorder
    ):
        return False
    return is_inside and tensor.is_contiguous and (tensor.item_bytes > 0 or tensor.is_opaque)


def is_whole(tensor: TensorInfo) -> bool:
    """Whether a tensor is stored so, and nothing else is in its storage."""
    return is_in_order(tensor) and tensor.size_bytes == tensor.storage_bytes
