"""Torchtitan: the folder `step-1000`."""

from marlin_ckpt.grammars.grammar import Pattern

GRAMMAR = Pattern(r"(?:.*[-_])?step-(?P<step>[0-9]+)")
