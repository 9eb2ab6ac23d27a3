"""Which block of the network a tensor belongs to, by its name."""

from __future__ import annotations


def block_of(tensor: str) -> str:
    """The part of a name up to its first number, `layers.3` of `layers.3.attn.weight`; else its parent."""
    parts = tensor.split(".")
    for place, part in enumerate(parts):
        if part.isdecimal() and place:
            return ".".join(parts[: place + 1])
    return ".".join(parts[:-1]) or tensor
