"""DeepSpeed: the tag `global_step1000`."""

from marlin_ckpt.grammars.grammar import Pattern

GRAMMAR = Pattern(r"(?:.*[-_])?global_step(?P<step>[0-9]+)")
