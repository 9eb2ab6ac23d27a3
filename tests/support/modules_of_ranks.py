"""Modules that are trained on many ranks, and differ between them where the names say so."""

from __future__ import annotations

import itertools
import os

import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from marlin_ckpt import ModuleInterface


class Plain(ModuleInterface):
    """Two layers in float64 without anything that is drawn; counts what it has seen."""

    def __init__(self, samples: int = 48, stream: str = "", seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
        ).double()
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
        self.numbers = torch.arange(samples)
        self.stream = stream
        self.seen: list[int] = []
        self.validated: list[int] = []
        self.steps: list[int] = []

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.9)]

    def get_train_dataloader(self, sampler, batch_size):
        data = TensorDataset(self.inputs, self.numbers)
        if self.stream:
            return DataLoader(Stream(data, self.stream), batch_size)
        return DataLoader(data, batch_size, sampler=sampler(data))

    def get_val_dataloaders(self, sampler, batch_size):
        data = TensorDataset(self.inputs[:13], self.numbers[:13])
        return DataLoader(data, batch_size, sampler=sampler(data))

    def train_step(self, global_step, batch, device):
        inputs, numbers = batch
        self.seen += numbers.tolist()
        return (self.layers(inputs) - inputs.sum(1, keepdim=True)).square().mean()

    def val_step(self, global_step, batch, device):
        inputs, numbers = batch
        return (self.layers(inputs) - inputs.sum(1, keepdim=True)).square().squeeze(1), numbers

    def on_end_val_epoch(self, global_step, *outputs, key="default"):
        losses, numbers = outputs
        self.validated = numbers.tolist()
        self.measured = {"val_loss": float(losses.mean())}

    def get_metrics(self):
        return self.measured


class Frozen(Plain):
    """Has its first layer frozen for an epoch."""

    def __init__(self):
        super().__init__()
        self.layers[0].requires_grad_(False)

    def on_begin_train_epoch(self, global_step, epoch):
        self.layers[0].requires_grad_(epoch > 0)


class Stream(IterableDataset):
    """Of another length at each rank, where it says `uneven`."""

    def __init__(self, data, kind):
        self.data, self.kind = data, kind

    def __iter__(self):
        ranks = torch.distributed.get_world_size()
        own = list(range(torch.distributed.get_rank(), len(self.data), ranks))
        if self.kind == "uneven":
            own = own[: len(own) - 4 * torch.distributed.get_rank()]
        return iter([self.data[number] for number in own])


class OfOwn(Plain):
    """Measures what its own rank alone has seen, of two loaders; all but rank 0 want to stop."""

    def get_val_dataloaders(self, sampler, batch_size):
        one = TensorDataset(self.inputs[:1], self.numbers[:1])
        many = super().get_val_dataloaders(sampler, batch_size)
        return {"many": many, "one": DataLoader(one, batch_size, sampler=sampler(one))}

    def on_end_val_epoch(self, global_step, *outputs, key="default"):
        super().on_end_val_epoch(global_step, *outputs, key=key)
        rank = torch.distributed.get_rank()
        self.measured |= dict.fromkeys(("own", "val_many_own", "val/one", "train_own"), float(rank))
        self.should_stop = rank > 0


class Overflowing(Plain):
    """Has an infinite gradient at rank 1 in its second step."""

    def __init__(self):
        super().__init__()
        self.layers.float()
        self.inputs = self.inputs.float()

    def train_step(self, global_step, batch, device):
        loss = super().train_step(global_step, batch, device)
        return loss * (float("inf") if global_step == 2 and torch.distributed.get_rank() == 1 else 1.0)


class Asking(Plain):
    """Is sent a signal at rank 1 in a validation, or in the third step."""

    def __init__(self, number: int, in_validation: bool):
        super().__init__()
        self.number, self.in_validation = number, in_validation

    def _ask(self) -> None:
        if self.number and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), self.number)
        self.number = 0

    def val_step(self, global_step, batch, device):
        if self.in_validation:
            self._ask()
        return super().val_step(global_step, batch, device)

    def on_end_train_step(self, global_step, *outputs):
        if global_step == 3 and not self.in_validation:
            self._ask()


class Liar(Plain):
    """Has a loader that ends before the length that it says."""

    def get_train_dataloader(self, sampler, batch_size):
        data = TensorDataset(self.inputs, self.numbers)
        return Short(data, batch_size, sampler=sampler(data))


class Short(DataLoader):
    def __iter__(self):
        return itertools.islice(super().__iter__(), 3)


class Compiled(Plain):
    """Has its layers compiled, one by one and together, and one recomputed: each puts a name into theirs."""

    def __init__(self):
        super().__init__()
        self.layers[0] = checkpoint_wrapper(self.layers[0])
        self.layers[2] = torch.compile(self.layers[2], backend="eager")
        self.layers = torch.compile(self.layers, backend="eager")
