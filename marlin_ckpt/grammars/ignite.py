"""PyTorch-Ignite: `best_model_300_accuracy=0.98`, the step before the score's name."""

from marlin_ckpt.grammars.grammar import Pattern

GRAMMAR = Pattern(
    r".+_(?P<step>[0-9]+)_[A-Za-z][^=]*=-?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?", has_metrics=True
)
