"""One tensor of a checkpoint, as its files describe it."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from marlin_ckpt.formats.values.dtypes import dtype
from marlin_ckpt.formats.zip.structures import Record


class Piece(NamedTuple):
    """A part of a tensor that is sharded over the files of a folder.

    Attributes:
        file: the name in the folder of the file that holds it.
        start: where the piece's bytes begin in the file.
        size_bytes: how many bytes of the file they are.
        offsets: where its first element is in the tensor, in each dimension.
        shape: its sizes.
        is_bare: whether the bytes are its elements alone; else they are a `torch.save` file with one tensor.
    """

    file: str
    start: int
    size_bytes: int
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    is_bare: bool = False


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where the elements of a tensor are in a file, or in the files of a folder.

    The values are those in the file; none was compared with the file's length.

    Attributes:
        name: its dotted path, `module_interface_state.layers.0.weight`; list items are `[0]`.
        dtype: in torch's spelling, `float32`.
        shape: the sizes of its dimensions, in elements. A malicious file may have negative ones.
        stride: the strides of its dimensions, in elements.
        offset: where its first element is in the storage, in elements.
        storage: a key that is equal for the tensors of a file that share one storage.
        start: where the first byte of the storage is in the file, in bytes.
        storage_bytes: how many bytes of the storage the file holds; 0 if none.
        byteorder: `little` or `big`.
        record: the record of a storage that is deflated; None if its bytes are stored as they are.
        pickled: the data of a NumPy array that is inside the pickle, as bytes or as text encoded as Latin-1;
            None for tensors.
        in_state: whether it belongs to a state, as `state_dict()` returns one: not an array of NumPy's, nor a
            part of another tensor or an attribute of a module that was pickled whole.
        is_array: whether it is an array of NumPy's.
        file: the name in the folder of the file that holds it; "" where the checkpoint is one file.
        pieces: those that make it up, where it is sharded: then it has no place of its own in a file.
        partial: what puts it together with others, where it is a part of a larger tensor; else "".
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: str
    start: int
    storage_bytes: int
    byteorder: str = "little"
    record: Record | None = None
    pickled: str | bytes | None = field(default=None, repr=False)
    in_state: bool = True
    is_array: bool = False
    file: str = ""
    pieces: tuple[Piece, ...] = field(default=(), repr=False)
    partial: str = ""

    @property
    def numel(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape) if all(size >= 0 for size in self.shape) else 0

    @property
    def item_bytes(self) -> int:
        """The size of one element in bytes; 0 if the dtype is not known."""
        return dtype(self.dtype).item_bytes

    @property
    def is_opaque(self) -> bool:
        """Whether its dtype is not known and it is its whole storage, which is then read as bytes."""
        return not self.item_bytes and not self.offset and self.is_contiguous

    @property
    def size_bytes(self) -> int:
        """The size of its elements in bytes, also if other tensors share them."""
        return self.storage_bytes if self.is_opaque else self.numel * self.item_bytes

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements follow each other without gaps, the last dimension fastest."""
        dimensions = zip(self.shape, self.stride, contiguous_stride(self.shape), strict=True)
        return not self.numel or all(size == 1 or stride == whole for size, stride, whole in dimensions)

    @property
    def is_dense(self) -> bool:
        """Whether its elements are all that is between the first and the last of them, each once."""
        step = 1
        for stride, size in sorted(zip(self.stride, self.shape, strict=True)):
            if size != 1 and stride != step and self.numel:
                return False
            step *= size
        return True

    @property
    def last(self) -> int:
        """Where its last element is in the storage, in elements; `offset` - 1 if it has no elements."""
        if not self.numel:
            return self.offset - 1
        return self.offset + sum(
            (size - 1) * step for size, step in zip(self.shape, self.stride, strict=True)
        )

    @property
    def is_inside(self) -> bool:
        """Whether all its elements are inside its storage."""
        # torch has no negative strides.
        is_sane = self.offset >= 0 and all(size >= 0 for size in self.shape)
        if not self.numel or self.is_opaque:
            return is_sane
        return (
            is_sane
            and all(step >= 0 for step in self.stride)
            and (self.last + 1) * self.item_bytes <= self.storage_bytes
        )

    def moved(
        self, name: str, file: str, storage: str, pieces: tuple[Piece, ...], partial: str
    ) -> "TensorInfo":
        """The same tensor as one of a folder, by another name; the arguments are its attributes there."""
        # Several times as fast as dataclasses.replace, and a folder has many tensors.
        return TensorInfo(
            name, self.dtype, self.shape, self.stride, self.offset, storage, self.start, self.storage_bytes,
            self.byteorder, self.record, self.pickled, self.in_state, self.is_array, file, pieces, partial,
        )  # fmt: skip


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor without gaps, in elements."""
    stride = []
    step = 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(1, size)
    return tuple(reversed(stride))
