"""Puts a tensor together from its pieces, each read straight to its place where that is one stretch."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

import numpy as np
from isal import isal_zlib

from marlin_ckpt.errors import CorruptCheckpointError, UnknownFormatError
from marlin_ckpt.formats.content.contents import Contents, Node, NodeKind, read_contents
from marlin_ckpt.formats.pickle.reader import unpickling
from marlin_ckpt.formats.values import dtypes
from marlin_ckpt.formats.values.arrays import Array
from marlin_ckpt.formats.values.checked import CheckedFile, is_whole
from marlin_ckpt.formats.values.tensor import Piece, TensorInfo, contiguous_stride
from marlin_ckpt.formats.values.window import Window
from marlin_ckpt.storage.source import Source
from marlin_ckpt.storage.threads import in_order

_BLOCK_BYTES = 4 << 20  # of a piece that does not lie in one stretch in its tensor

_NOTHING = Node("", NodeKind.MAPPING)

_T = TypeVar("_T")
Open = Callable[[str], AbstractContextManager[Source]]


def put_together(tensor: TensorInfo, open_file: Open, path: str) -> Array:
    """Reads all pieces of a tensor, and compares the checksums that they have.

    Beside the tensor, no more than a few blocks are in memory.

    Args:
        tensor: that has pieces.
        open_file: opens a file of the folder.
        path: of the folder, for messages.

    Returns:
        its elements, as `Checked.bits` does.

    Raises:
        CorruptCheckpointError: a checksum does not hold, or the pieces do not make up the tensor.
        UnknownFormatError: the dtype is not known here.
        StorageError: a file cannot be read.
    """
    return _Whole(tensor, open_file, path).read()


class _Whole:
    def __init__(self, tensor: TensorInfo, open_file: Open, path: str) -> None:
        self._tensor, self._open, self._path = tensor, open_file, path

    def read(self) -> Array:
        tensor = self._tensor
        if not tensor.item_bytes:
            raise UnknownFormatError(
                f"tensor {tensor.name} is of the unknown type {tensor.dtype}", self._path
            )
        for piece in tensor.pieces:
            self._check(piece)
        covered = sum(math.prod(piece.shape) for piece in tensor.pieces)
        if covered != tensor.numel:
            raise self._bad(f"its pieces have {covered:,} of its {tensor.numel:,} elements")
        if len(tensor.pieces) == 1:
            return self._read(tensor.pieces[0], lambda file, found: file.bits(found))
        whole: Array = np.empty(tensor.shape, dtypes.dtype(tensor.dtype).numpy)

        def read(piece: Piece) -> None:
            ends = (start + size for start, size in zip(piece.offsets, piece.shape, strict=True))
            place = tuple(slice(start, end) for start, end in zip(piece.offsets, ends, strict=True))
            if math.prod(piece.shape):
                self._read(piece, lambda file, found: _read_to(file, found, whole[place]))

        for _ in in_order(read, tensor.pieces):
            pass
        return whole.reshape(-1)

    def _check(self, piece: Piece) -> None:
        sizes = zip(piece.offsets, piece.shape, self._tensor.shape, strict=True)
        if any(start < 0 or start + size > whole for start, size, whole in sizes):
            raise self._bad("a piece of it lies outside of it")
        if math.prod(piece.shape) * self._tensor.item_bytes > piece.size_bytes:
            raise self._bad(f"{piece.file} has no room for its piece")

    def _read(self, piece: Piece, work: Callable[[CheckedFile, TensorInfo], _T]) -> _T:
        """Reads a piece by a function that is given it as a tensor of a file of its own."""
        with self._open(piece.file) as source:
            try:
                return work(*self._found(piece, source))
            except CorruptCheckpointError as error:
                if error.where == self._path:
                    raise
                raise self._bad(f"{error.what}, in {piece.file}") from error  # which knows the shard alone

    def _found(self, piece: Piece, source: Source) -> tuple[CheckedFile, TensorInfo]:
        """A piece as a tensor of a file of its own."""
        tensor = self._tensor
        if piece.start < 0 or piece.start + piece.size_bytes > source.size_bytes:
            raise self._bad(f"{piece.file} ends before its piece")
        window = Window(source, piece.start, piece.size_bytes)
        if piece.is_bare:
            stride = contiguous_stride(piece.shape)
            bare = TensorInfo(tensor.name, tensor.dtype, piece.shape, stride, 0, "", 0, piece.size_bytes)
            return CheckedFile(window, Contents(source.path, "", 0, _NOTHING, (bare,))), bare
        with unpickling(source.path):
            contents = read_contents(window)
        found = contents.root.tensor
        if found is None or (found.dtype, found.shape) != (tensor.dtype, piece.shape):
            raise self._bad(f"its piece in {piece.file} is not of {tensor.dtype} {list(piece.shape)}")
        return CheckedFile(window, contents), found

    def _bad(self, why: str) -> CorruptCheckpointError:
        return CorruptCheckpointError(
            f"tensor {self._tensor.name}: {why}", self._path, tensors=(self._tensor.name,)
        )


def _read_to(file: CheckedFile, found: TensorInfo, place: Array) -> None:
    if not is_whole(found):
        place[...] = file.bits(found).reshape(place.shape)
    elif place.flags.c_contiguous:
        data = place.reshape(-1).view(np.uint8).data
        if not file.check(found, data):
            _fill(file.source_of(found), found.start, data)
    else:
        _read_blocks(file, found, place)


def _read_blocks(file: CheckedFile, found: TensorInfo, place: Array) -> None:
    """Reads a piece block by block, since it does not lie in one stretch in its tensor."""
    source = file.source_of(found)
    crc32, at = 0, found.start
    scratch = memoryview(bytearray(min(place.nbytes, _BLOCK_BYTES)))
    for part in _blocks(place):
        is_stretch = part.flags.c_contiguous
        data = part.reshape(-1).view(np.uint8).data if is_stretch else scratch[: part.nbytes]
        _fill(source, at, data)
        if not is_stretch:
            part[...] = np.frombuffer(data, part.dtype).reshape(part.shape)
        crc32 = isal_zlib.crc32(data, crc32)
        at += len(data)
    file.confirm(found, crc32)


def _fill(source: Source, at: int, data: memoryview) -> None:
    if source.read_into(at, data) < len(data):
        raise CorruptCheckpointError("truncated while it was read", source.path)


def _blocks(place: Array) -> Iterator[Array]:
    """The parts of an array in row-major order, each in one stretch of memory or no longer than a block."""
    if place.nbytes <= _BLOCK_BYTES or place.flags.c_contiguous:
        yield place
        return
    rows = _BLOCK_BYTES // place[0].nbytes
    for at in range(0, len(place), max(1, rows)):
        if rows:
            yield place[at : at + rows]
        else:
            yield from _blocks(place[at])
