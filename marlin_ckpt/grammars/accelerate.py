"""Accelerate: `checkpoint_3`, counted by saves; its examples write `step_500` and `epoch_3`."""

from marlin_ckpt.grammars.grammar import Pattern

GRAMMAR = Pattern(r"(?:checkpoint|step)_(?P<step>[0-9]+)")
