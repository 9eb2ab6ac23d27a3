"""A classifier of points on spiral arms."""

import math
from typing import Any

import torch
from torch.utils.data import TensorDataset

from marlin_ckpt.arguments import SpiralArguments
from marlin_ckpt.training.toys.toy import Toy

_NOISE = 0.1  # radians by which a point strays from its arm, one standard deviation
_TURN = 4.0  # radians by which an arm turns from its root to its end


class Spiral(Toy):
    """Two hidden layers; a second's training separates the arms."""

    def __init__(self, args: SpiralArguments) -> None:
        """Makes the points, always the same for the same `data_seed`.

        Args:
            args: the section of the YAML.
        """
        super().__init__()
        self.args = args
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2, args.width),
            torch.nn.Tanh(),
            torch.nn.Linear(args.width, args.width),
            torch.nn.Tanh(),
            torch.nn.Linear(args.width, args.arms),
        )
        points, arms = _spiral(args)
        held_out = args.points // 5  # one fifth is for validation
        self.train_data = TensorDataset(points[held_out:], arms[held_out:])
        self.val_data = TensorDataset(points[:held_out], arms[:held_out])
        self.metrics = {}

    def data_fingerprint(self) -> str:
        """What the points are generated from."""
        return f"{self.args.points} points on {self.args.arms} arms from seed {self.args.data_seed}"

    def train_step(self, global_step: int, batch: Any, device: torch.device) -> torch.Tensor:  # noqa: ARG002
        """The mean cross entropy."""
        points, arms = (part.to(device) for part in batch)
        return torch.nn.functional.cross_entropy(self.layers(points), arms)

    def val_step(self, global_step: int, batch: Any, device: torch.device) -> tuple[torch.Tensor, ...]:  # noqa: ARG002
        """The cross entropy of each point, (batch,), and whether it was classified rightly, (batch,)."""
        points, arms = (part.to(device) for part in batch)
        scores = self.layers(points)
        losses = torch.nn.functional.cross_entropy(scores, arms, reduction="none")
        return losses, (scores.argmax(dim=1) == arms).float()

    def on_end_val_epoch(self, global_step: int, *outputs: Any, key: str = "default") -> None:  # noqa: ARG002
        """Keeps the means for the manifest."""
        if outputs:
            losses, right = outputs
            self.metrics = {"val_loss": float(losses.mean()), "val_accuracy": float(right.mean())}


def _spiral(args: SpiralArguments) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (points, 2) in random order, and the number of each one's arm (points,)."""
    generator = torch.Generator().manual_seed(args.data_seed)
    arms = torch.randint(args.arms, (args.points,), generator=generator)
    radius = torch.rand(args.points, generator=generator)
    angle = radius * _TURN + arms * (2 * math.pi / args.arms)
    angle = angle + torch.randn(args.points, generator=generator) * _NOISE
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), arms
