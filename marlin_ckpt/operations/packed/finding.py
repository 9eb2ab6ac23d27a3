"""Tensors that a file holds quantized: which they are, by the names and dtypes of their parts.

bitsandbytes stores the parts of a weight under names that begin with the weight's: `QuantState.as_dict` in
bitsandbytes/functional.py and `Linear8bitLt` in nn/modules.py of bitsandbytes 0.50.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from marlin_ckpt.formats.content.contents import Contents, Node, NodeKind, TensorInfo
from marlin_ckpt.formats.values.dtypes import dtype
from marlin_ckpt.operations import selection

_FOUR_BITS = r"(?s)(.+)\.(quant_state\.bitsandbytes__(nf4|fp4))"
_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_SCHEMES = "(per_tensor_affine|per_channel_affine)[ ,]"
# Of a tensor that torch quantized: what its quantizer is made of, by the keys that it has in the tree.
_QUANTIZER = {"[1]": "scale", "[2]": "zero_point", "[3]": "axis"}


class How(StrEnum):
    """The way in which a tensor was quantized; UNKNOWN is one that nothing here can undo."""

    FOUR_BITS = "4 bits"
    EIGHT_BITS = "8 bits"
    TORCH = "torch"
    UNKNOWN = "unknown"


class Quantized(NamedTuple):
    """A tensor that is stored in few bits.

    Attributes:
        tensor: those bits.
        how: the way in which it was quantized.
        scheme: the same in words.
        parts: the tensors that belong to it, by what they are in it.
        numbers: the numbers that do.
        names: the names, within the state, of the parts that have one there.
    """

    tensor: TensorInfo
    how: How
    scheme: str
    parts: Mapping[str, TensorInfo]
    numbers: Mapping[str, float] = {}
    names: tuple[str, ...] = ()


def quantized(contents: Contents, state: str) -> dict[str, Quantized]:
    """Finds the quantized tensors of a state, by their names in it. No tensor is read."""
    named = dict(selection.tensors_of(contents, state)) if contents.tensors else {}
    found = {}
    for name, one in named.items():
        if match := re.fullmatch(_FOUR_BITS, name):
            found.update(_four_bits(named, match[1], match[2], match[3]))
        elif name.endswith("SCB") and one.dtype == "float32":
            found.update(_eight_bits(named, name.removesuffix("SCB")))
    if any(map(_is_torchs, named.values())):
        found.update(_torchs(selection.walk(contents, state)))
    return found


def composites(contents: Contents) -> Iterator[tuple[str, str]]:
    """The tensors of a file that are made of others, or are quantized, each with what it is."""
    for name, node in selection.walk(contents, ""):
        if node.kind is NodeKind.COMPOSITE:
            yield name, node.label
    for name, one in quantized(contents, "").items():
        yield name, one.scheme


def _four_bits(named: dict[str, TensorInfo], weight: str, state: str, kind: str) -> dict[str, Quantized]:
    parts = {part: named[f"{weight}.{part}"] for part in _PARTS if f"{weight}.{part}" in named}
    if weight not in named or not {"absmax", "quant_map"} <= parts.keys():
        return {}
    names = (f"{weight}.{state}", *(f"{weight}.{part}" for part in parts))
    parts["description"] = named[names[0]]
    return {weight: Quantized(named[weight], How.FOUR_BITS, f"{kind} of bitsandbytes", parts, names=names)}


def _eight_bits(named: dict[str, TensorInfo], above: str) -> dict[str, Quantized]:
    tensor = named.get(f"{above}weight")
    if tensor is None or tensor.dtype != "int8" or len(tensor.shape) != 2:  # noqa: PLR2004 - rows and columns
        return {}
    parts = {part: named[f"{above}{part}"] for part in ("SCB", "weight_format") if f"{above}{part}" in named}
    names = tuple(f"{above}{part}" for part in parts)
    scheme = "8 bits of bitsandbytes, by rows"
    return {f"{above}weight": Quantized(tensor, How.EIGHT_BITS, scheme, parts, names=names)}


def _is_torchs(tensor: TensorInfo | None) -> bool:
    if tensor is None or not tensor.in_state:
        return False
    return dtype(tensor.dtype).is_quantized or tensor.dtype.startswith("quint")


def _torchs(nodes: Iterable[tuple[str, Node]]) -> Iterator[tuple[str, Quantized]]:
    for name, node in nodes:
        if node.tensor is not None and _is_torchs(node.tensor):
            made = {_QUANTIZER[child.key]: child for child in node.children if child.key in _QUANTIZER}
            parts = {key: child.tensor for key, child in made.items() if child.tensor is not None}
            numbers = {key: one.value for key, one in made.items() if type(one.value) in (int, float)}
            is_known = dtype(node.tensor.dtype).is_quantized and re.match(_SCHEMES, node.label)
            how = How.TORCH if is_known else How.UNKNOWN
            yield name, Quantized(node.tensor, how, f"{node.tensor.dtype}, {node.label}", parts, numbers)
