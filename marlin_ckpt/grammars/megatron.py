"""Megatron-Core: the folder `iter_0000010`."""

from marlin_ckpt.grammars.grammar import Pattern

GRAMMAR = Pattern(r"iter_(?P<step>[0-9]+)")
