"""Compares the parameters that the ranks have, before the first step."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from marlin_ckpt.distributed.failures import together
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import TrainingError
from marlin_ckpt.training.resume.leaves import fingerprint


def check(ranks: Ranks, module: nn.Module) -> None:
    """Refuses modules that the ranks have made with different parameters, or without values.

    Args:
        ranks: that all call this.
        module: of this one.

    Raises:
        TrainingError: parameters differ, and it names the first; or one is on the meta device.
    """
    found = together(ranks, lambda: _fingerprints(module))
    digest = int.from_bytes(hashlib.blake2b(repr(found).encode(), digest_size=8).digest()) >> 1
    if ranks.are_alike(digest):
        return
    of_main = ranks.told(found)
    both = zip([*found, ("", "nothing")], [*of_main, ("", "nothing")], strict=False)
    at = next((place for place, (own, main) in enumerate(both) if own != main), len(of_main))
    first = ranks.least(at)[0]
    name = of_main[first][0] if first < len(of_main) else "one that rank 0 has not"
    what = f"the ranks have made their modules with different parameters; the first that differs is {name}"
    raise TrainingError(what, hint="set trainer.seed, and let nothing in the module depend on the rank")


def _fingerprints(module: nn.Module) -> list[tuple[str, str]]:
    """The name of each parameter with a fingerprint of its values."""
    for name, one in module.named_parameters():
        if one.device == torch.device("meta"):
            what = f"the parameter {name} has no values: it is on torch's meta device"
            raise TrainingError(what, hint="make the module on the CPU; it is sharded from there")
    return [(name, fingerprint(one)) for name, one in module.named_parameters()]
