"""Contents of files, and their values beside those that torch reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marlin_ckpt.formats.content.contents import Contents, TensorInfo, read_contents
from marlin_ckpt.formats.values import arrays
from marlin_ckpt.storage.local.files import open_source

FORMATS = {"zip": True, "legacy": False}


EIGHT_BITS = ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]


def contents(path: Path | str) -> Contents:
    with open_source(os.fspath(path)) as source:
        return read_contents(source)


def contents_of(state: Any, path: Path, kind: str = "zip") -> Contents:
    torch.save(state, path, _use_new_zipfile_serialization=FORMATS[kind])
    return contents(path)


def values(path: Path, tensor: TensorInfo) -> np.ndarray:
    with open_source(os.fspath(path)) as source:
        read = arrays.widened(arrays.read_bits(source, tensor), tensor.dtype)
        pieces = [*arrays.blocks(source, tensor, 5), read.reshape(-1)[:0]]
    np.testing.assert_array_equal(np.concatenate(pieces), read.reshape(-1))
    assert all(piece.size <= 5 for piece in pieces)
    return read


def check_tensor(tensor: TensorInfo, live: torch.Tensor, path: Path) -> None:
    """A tensor's description and its values are those of the live one."""
    live = live.detach()
    assert tensor.dtype == str(live.dtype).removeprefix("torch.")
    assert (tensor.shape, tensor.stride) == (tuple(live.shape), live.stride())
    assert (tensor.offset, tensor.item_bytes) == (live.storage_offset(), live.element_size())
    assert tensor.storage_bytes == live.untyped_storage().nbytes()
    assert (tensor.numel, tensor.size_bytes) == (live.numel(), live.nbytes)
    if live.numel():
        assert tensor.is_contiguous == live.is_contiguous()
    wide = live.float() if tensor.dtype == "bfloat16" or tensor.dtype in EIGHT_BITS else live
    read = values(path, tensor)
    assert read.shape == tuple(live.shape)
    np.testing.assert_array_equal(read, wide.numpy())
    assert read.dtype == wide.numpy().dtype
