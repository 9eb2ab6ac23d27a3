"""What the toys have in common: AdamW, loaders of two data sets, and the metrics of the last validation."""

from typing import Any

import torch
from torch.utils.data import DataLoader

from marlin_ckpt.training.module import ModuleInterface, SamplerClass, Schedulers


class Toy(ModuleInterface):
    """A module with a constant learning rate; derive from it, and set the attributes below.

    Attributes:
        args: with a `learning_rate`.
        train_data, val_data: the data sets, or tensors whose first dimension counts the samples.
        metrics: of the last validation.
    """

    args: Any
    train_data: Any
    val_data: Any
    metrics: dict[str, float]

    def get_optimizers_schedulers(
        self,
        estimated_global_steps_per_epoch: int,  # noqa: ARG002 - the interface's
        epochs: int,  # noqa: ARG002
    ) -> tuple[list[torch.optim.Optimizer], Schedulers]:
        """AdamW at a constant rate."""
        return [torch.optim.AdamW(self.parameters(), lr=self.args.learning_rate)], []

    def get_train_dataloader(self, sampler: SamplerClass, batch_size: int) -> DataLoader[Any]:
        """The loader of the training data."""
        return DataLoader(self.train_data, batch_size, sampler=sampler(self.train_data))

    def get_val_dataloaders(self, sampler: SamplerClass, batch_size: int) -> DataLoader[Any]:
        """The loader of the validation data."""
        return DataLoader(self.val_data, batch_size, sampler=sampler(self.val_data))

    def get_metrics(self) -> dict[str, float]:
        """The metrics of the last validation."""
        return self.metrics
