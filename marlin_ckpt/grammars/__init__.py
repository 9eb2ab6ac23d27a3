"""How other tools name their checkpoints: a module for each tool, which reads the stems of its names.

grammar           Reading: what a name says of its place in a run; Grammar: one tool's names
accelerate        Accelerate
deepspeed         DeepSpeed
fairseq           fairseq
ignite            PyTorch-Ignite, with the score in the name
lightning         Lightning and NeMo: pairs such as `step=6`, in any order
megatron          Megatron-Core
stable_baselines  Stable-Baselines3
torchtitan        torchtitan
transformers      the Trainer of Transformers
"""

from marlin_ckpt.grammars import (
    accelerate,
    deepspeed,
    fairseq,
    ignite,
    lightning,
    megatron,
    stable_baselines,
    torchtitan,
    transformers,
)
from marlin_ckpt.grammars.grammar import Reading, metrics_in

_GRAMMARS = (
    lightning.GRAMMAR,
    transformers.GRAMMAR,
    accelerate.GRAMMAR,
    torchtitan.GRAMMAR,
    megatron.GRAMMAR,
    deepspeed.GRAMMAR,
    fairseq.GRAMMAR,
    ignite.GRAMMAR,
    stable_baselines.GRAMMAR,
)


def read(stem: str) -> Reading | None:
    """What a name says of its place in a run, by the first grammar that it fits; None where it fits none."""
    return next((found for one in _GRAMMARS if (found := one.read(stem))), None)


def metrics(stem: str) -> dict[str, float]:
    """The metrics that a name has in it, where the first grammar that it fits puts any there."""
    one = next((one for one in _GRAMMARS if one.read(stem)), None)
    return metrics_in(stem) if one is not None and one.has_metrics else {}
