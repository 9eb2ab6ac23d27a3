"""One tensor of a file, as the file describes it."""

import math
from dataclasses import dataclass, field

from marlin_ckpt.formats.values.dtypes import dtype
from marlin_ckpt.formats.zip.structures import Record


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where the elements of a tensor are. Nothing here has been checked against the length of the file.

    Attributes:
        name: its dotted path, `module_interface_state.layers.0.weight`; list items are `[0]`.
        dtype: in torch's spelling, `float32`.
        shape: as in the file; a hostile file may have negative sizes.
        stride: in elements, one for each size.
        offset: of the first element, in elements from the storage's start.
        storage: a key that is equal for tensors that share a storage, and no others of the file.
        start: where in the file the storage's first byte is.
        storage_bytes: how many bytes of it the file holds; 0 where it holds none.
        byteorder: `little` or `big`.
        record: of a storage that the file holds deflated, the record; None where its bytes lie as they are.
        pickled: of an array of NumPy's, whose data lies in the pickle, the data, or a text that is encoded as
            Latin-1 to make it; None of tensors.
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

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape) if all(size >= 0 for size in self.shape) else 0

    @property
    def item_bytes(self) -> int:
        """The size of an element; 0 where the type is not known here."""
        return dtype(self.dtype).item_bytes

    @property
    def is_opaque(self) -> bool:
        """Whether its dtype is not known here, and it has its storage from the start: then that is read."""
        return not self.item_bytes and not self.offset and self.is_contiguous

    @property
    def size_bytes(self) -> int:
        """The size of its elements, whether or not they share their memory."""
        return self.storage_bytes if self.is_opaque else self.numel * self.item_bytes

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements follow each other without gaps, the last dimension fastest."""
        dimensions = zip(self.shape, self.stride, contiguous_stride(self.shape), strict=True)
        return not self.numel or all(size == 1 or stride == whole for size, stride, whole in dimensions)

    @property
    def last(self) -> int:
        """Where in its storage its last element is, in elements; before the first where it has none."""
        if not self.numel:
            return self.offset - 1
        return self.offset + sum(
            (size - 1) * step for size, step in zip(self.shape, self.stride, strict=True)
        )

    @property
    def is_inside(self) -> bool:
        """Whether its storage has all the elements that it views."""
        # torch has no negative strides.
        is_sane = self.offset >= 0 and all(size >= 0 for size in self.shape)
        if not self.numel or self.is_opaque:
            return is_sane
        return (
            is_sane
            and all(step >= 0 for step in self.stride)
            and (self.last + 1) * self.item_bytes <= self.storage_bytes
        )


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor without gaps, in elements."""
    stride = []
    step = 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(1, size)
    return tuple(reversed(stride))
