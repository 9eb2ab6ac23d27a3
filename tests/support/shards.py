"""Shards that are made of tensors and values at hand."""

from __future__ import annotations

import io
import zlib

import torch

from marlin_ckpt.formats.shards.items import Item, ShardAbout, ShardPlan, TensorItem, ValueItem
from marlin_ckpt.formats.shards.planning import plan_shard
from marlin_ckpt.formats.shards.writer import Sharing, write_shard
from marlin_ckpt.formats.zip.state_dict import tensor_pickle
from marlin_ckpt.formats.zip.structures import ALIGNMENT
from tests.support.memory_store import MemoryTarget

ABOUT = ShardAbout("5f0c", 3)


def tensor_item(tensor: torch.Tensor) -> TensorItem:
    return TensorItem(tensor_pickle(str(tensor.dtype)[6:], tuple(tensor.shape)), tensor.nbytes)


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def memory_of(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def shard_of(
    items: list[torch.Tensor | bytes], about: ShardAbout = ABOUT, alignment: int = ALIGNMENT
) -> tuple[bytes, ShardPlan]:
    """A shard of tensors and of values that `torch.save` wrote."""
    described: list[Item] = [ValueItem(one) if isinstance(one, bytes) else tensor_item(one) for one in items]
    target = MemoryTarget()
    data = (memory_of(one) for one in items if not isinstance(one, bytes))
    sums = write_shard(target, described, data, about, sharing=Sharing(alignment))
    assert sums == (len(target.data), zlib.crc32(target.data))
    return bytes(target.data), plan_shard(described, alignment)
