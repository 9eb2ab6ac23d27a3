"""Writes a safetensors file, tensor by tensor.

The library's own `serialize_file` (release 0.8) needs all tensors in memory at once, and writes to a
temporary file of its own, which it does not sync, which only its owner may read, and which stays behind after
a kill. So the bytes are laid out here as the library does, and the library reads the header before anything
is written. Source of the format: section "Format" of the README of safetensors; of the order: its tensor.rs.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence

import safetensors

from marlin_ckpt.errors import MarlinError, UnsavableStateError
from marlin_ckpt.formats.values.draft import Draft
from marlin_ckpt.formats.values.dtypes import FLOAT4, SAFETENSORS
from marlin_ckpt.storage.target import Target

_CODES = {dtype: code for code, dtype in SAFETENSORS.items()}
_RANKS = {dtype: rank for rank, dtype in enumerate(_CODES)}
_ALIGNMENT = 8
_METADATA = "__metadata__"


def header(drafts: Sequence[Draft], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file: its length, and JSON with the place of each tensor's bytes.

    Args:
        drafts: in the order of their bytes.
        metadata: texts by their names.

    Raises:
        UnsavableStateError: a name or a dtype is none that the format knows.
    """
    values: dict[str, object] = {_METADATA: dict(sorted(metadata.items()))}
    end = 0
    for one in drafts:
        if one.dtype not in _CODES:
            raise UnsavableStateError(f"safetensors files hold no {one.dtype}, the dtype of {one.name}")
        if one.dtype == FLOAT4 and not one.shape:
            raise UnsavableStateError(
                f"safetensors files hold no {one.dtype} without a dimension: {one.name}"
            )
        if one.name == _METADATA:
            raise UnsavableStateError(f"no tensor of a safetensors file can have the name {_METADATA}")
        span = [end, end := end + one.size_bytes]
        shape = list(one.shape)
        if one.dtype == FLOAT4:  # counted by torch in pairs, and here one by one
            shape[-1] *= 2
        values[one.name] = {"dtype": _CODES[one.dtype], "shape": shape, "data_offsets": span}
    try:
        text = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise UnsavableStateError("a tensor's name is no text that UTF-8 can hold") from error
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def in_order(drafts: Iterable[Draft]) -> list[Draft]:
    """Drafts in the order in which their bytes are to follow the header."""
    return sorted(drafts, key=lambda one: (_RANKS.get(one.dtype, 0), one.name))


def write(target: Target, drafts: Iterable[Draft], metadata: Mapping[str, str]) -> None:
    """Fills an empty file, once the library has read its header.

    Drafts that are the same as another are left out, and named in the metadata with the one that they are, as
    `safetensors.torch.save_model` does.

    Args:
        target: the empty file.
        drafts: each with a name of its own.
        metadata: texts by their names; these come before the names of tensors.

    Raises:
        UnsavableStateError: as `header`.
        OSError: the file cannot be written.
        MarlinError: the library does not read it.
    """
    listed = list(drafts)
    kept = in_order(one for one in listed if not one.same_as)
    same = {one.name: one.same_as for one in listed if one.same_as}
    head = header(kept, {**same, **metadata})
    _prove(head, kept)
    target.put(head)
    for one in kept:
        target.put(one.read())


def _prove(head: bytes, drafts: Sequence[Draft]) -> None:
    """Has the library read a file in memory that begins so and has a hole for the data, at no cost."""
    with open(os.memfd_create("safetensors"), "wb", buffering=0) as file:
        file.write(head)
        file.truncate(len(head) + sum(one.size_bytes for one in drafts))
        try:
            with safetensors.safe_open(f"/proc/self/fd/{file.fileno()}", framework="np") as read:
                found = set(read.keys())
        except safetensors.SafetensorError as error:
            what = f"the safetensors library does not read what would be written: {error}"
            raise MarlinError(what) from error
    if found != {one.name for one in drafts}:
        raise MarlinError("the safetensors library reads other names than would be written")
