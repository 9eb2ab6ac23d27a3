"""Stable-Baselines3: `rl_model_10000_steps`."""

from marlin_ckpt.grammars.grammar import Pattern

GRAMMAR = Pattern(r".+_(?P<step>[0-9]+)_steps")
