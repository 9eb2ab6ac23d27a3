"""The Trainer of Transformers: the folder `checkpoint-500`, counted by steps."""

from marlin_ckpt.grammars.grammar import Pattern

GRAMMAR = Pattern(r"(?:.*[-_])?checkpoint-(?P<step>[0-9]+)")
