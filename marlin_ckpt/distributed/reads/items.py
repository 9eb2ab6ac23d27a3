"""Finds the data of the tensors and values in a shard, and what it has to be compared with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from marlin_ckpt.distributed.reads.filling import Data
from marlin_ckpt.distributed.reads.folder import File
from marlin_ckpt.errors import BadFileError, CorruptCheckpointError, UnknownFormatError
from marlin_ckpt.formats.content.contents import read_contents
from marlin_ckpt.formats.layouts.dcp.saved import Item
from marlin_ckpt.formats.shards.trailer import Shard
from marlin_ckpt.formats.torch import reader
from marlin_ckpt.formats.values.checked import CheckedFile, is_whole
from marlin_ckpt.formats.values.dtypes import dtype
from marlin_ckpt.formats.values.window import Memory, Window
from marlin_ckpt.formats.zip.records import read_records
from marlin_ckpt.storage.source import Source


def data_of(item: Item, file: File) -> Data:
    """The data of a piece of a tensor, in a shard of any writer's.

    In a shard of ours, what is beside the data is neither read nor needed. Elsewhere it is read, and compared
    with its checksums; so is the data, where it has to be put in order.

    Args:
        item: of a tensor.
        file: the shard.

    Raises:
        CorruptCheckpointError: a checksum does not hold, or the item is not the piece that it has to be.
        UnknownFormatError: it is packed in a way that is not read here.
        StorageError: it cannot be read.
    """
    if file.shard is not None:
        return _of_shard(item, file.source, file.shard)
    source = file.source
    window = _window(item, source)
    contents = read_contents(window)
    tensor, container = contents.root.tensor, contents.container
    if item.chunk is None or container is None or tensor is None:
        raise _wrong(item, source, "its item holds no tensor")
    if (tensor.dtype, tensor.shape) != (item.dtype, item.chunk.shape):
        own, stated = (
            f"{one[0]} {list(one[1])}"
            for one in ((tensor.dtype, tensor.shape), (item.dtype, item.chunk.shape))
        )
        raise _wrong(item, source, f"its piece is {own}, and {stated} to the metadata")
    starts = {container.data_offsets[one.name]: one for one in container.records if one.size}
    record = starts.get(tensor.start)
    if is_whole(tensor) and record is not None:
        others = [one for one in container.records if one is not record]
        read_records(window, container, records=others)
        crc32 = record.crc32 if container.has_checksums else None
        return Data(item.name, source, item.place.start + tensor.start, tensor.size_bytes, crc32)
    read_records(window, container)
    bits = np.ascontiguousarray(CheckedFile(window, contents).bits(tensor))
    memory = bits.view(np.uint8).reshape(-1).data if bits.size else memoryview(b"")
    return Data(item.name, Memory(source.path, memory), 0, len(memory))


def _of_shard(item: Item, source: Source, shard: Shard) -> Data:
    extent = shard.items.get(item.place.start)
    if item.chunk is None or extent is None:
        raise _wrong(item, source, "the shard has no such item")
    size = math.prod(item.chunk.shape) * dtype(item.dtype).item_bytes
    if extent.data_bytes != size:
        raise _wrong(item, source, f"its piece has {extent.data_bytes:,} bytes, and {size:,} to the metadata")
    end = extent.first_block - (-size // shard.block_bytes)
    blocks = shard.crcs[extent.first_block : end]
    return Data(item.name, source, extent.data_start, size, None, blocks, shard.block_bytes)


def value_of(item: Item, file: File, *, weights_only: bool) -> Any:
    """What is saved of a value.

    Raises:
        UnsafeCheckpointError: it needs more than `weights_only` allows; nothing of it was executed.
        BadFileError, StorageError, UnloadableStateError: as `read_file` raises them.
    """
    source = file.source
    window = _window(item, source)
    data = memoryview(bytearray(window.size_bytes))
    if window.read_into(0, data) < len(data):
        raise _wrong(item, source, "truncated while it was read")
    try:
        return reader.read_source(Memory(source.path, data), weights_only=weights_only)
    except CorruptCheckpointError as error:
        raise _wrong(item, source, error.what) from error
    except BadFileError as error:
        error.what = f"{item.name}: {error.what}"
        error.args = (error.what,)
        raise


def _window(item: Item, source: Source) -> Window:
    place = item.place
    if place.packing:
        through = ", ".join(place.packing)
        what = f"{item.name} went through {through}, which is not read here"
        raise UnknownFormatError(what, source.path, "torch.distributed.checkpoint.load reads it")
    if place.start < 0 or place.size_bytes < 0 or place.start + place.size_bytes > source.size_bytes:
        raise _wrong(item, source, f"the file ends at byte {source.size_bytes:,}, before its end")
    return Window(source, place.start, place.size_bytes)


def _wrong(item: Item, source: Source, why: str) -> CorruptCheckpointError:
    what = f"{'value' if item.chunk is None else 'tensor'} {item.name}: {why}"
    return CorruptCheckpointError(what, source.path, tensors=(item.name,))
