"""What the ranks of tests/unit/training/parallel do where something differs between them."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, random_split

from marlin_ckpt import FsdpArguments
from tests.support.modules_of_ranks import Plain
from tests.support.stopped_runs import trainer_in
from tests.support.training_ranks import failure, weights


def rank() -> int:
    return torch.distributed.get_rank()


class Buffered(Plain):
    """Has a buffer of its own at each rank."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.full((3,), float(rank())))


class Rated(Plain):
    """Trains at another rate at each rank."""

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        return [torch.optim.SGD(self.parameters(), lr=0.1 * (1 + rank()))], []


class Hiding(Plain):
    """Trains a layer that is in a plain list."""

    def __init__(self):
        super().__init__()
        self.hidden = [nn.Linear(1, 1)]

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        return [torch.optim.SGD([*self.parameters(), *self.hidden[0].parameters()], lr=0.1)], []


class Early(Plain):
    """Makes its optimizer before it is sharded."""

    def __init__(self):
        super().__init__()
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        return [self.optimizer], []


class Experts(Plain):
    """Takes another expert at each rank, all of which are as large."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(3, 3).double() for _ in range(2)])

    def train_step(self, global_step, batch, device):
        inputs, numbers = batch
        return super().train_step(global_step, (self.experts[rank()](inputs), numbers), device)


class Tied(Plain):
    """Has a parameter in two layers."""

    def __init__(self):
        super().__init__()
        self.layers[2].weight = nn.Parameter(self.layers[0].weight.detach().new_zeros(1, 8))
        self.again = nn.Linear(8, 1).double()
        self.again.weight = self.layers[2].weight


class Split(Plain):
    """Splits its data by what each rank draws, or has fewer at rank 1."""

    def __init__(self, samples: int = 48, cut: int = 0):
        super().__init__(samples)
        self.cut = cut

    def get_train_dataloader(self, sampler, batch_size):
        data = TensorDataset(self.inputs, self.numbers)
        if self.cut:
            data = TensorDataset(*data[: len(data) - self.cut * rank()])
        elif len(data) > 1:
            data, _ = random_split(data, [40, 8])
        return DataLoader(data, batch_size, sampler=sampler(data))


class Apart(Plain):
    """Gives each rank its part by itself, of which rank 1 has less."""

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        self.steps_per_epoch = estimated_global_steps_per_epoch
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        steps = estimated_global_steps_per_epoch * epochs
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)]

    def get_train_dataloader(self, sampler, batch_size):
        own = list(range(rank(), 48, 2))[: 24 - 9 * rank()]
        return DataLoader(TensorDataset(self.inputs, self.numbers), batch_size, sampler=own)


class Repeating(Plain):
    """Reads all samples at each rank: in order, shuffled, as a stream, or those of a validation."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def get_train_dataloader(self, sampler, batch_size):
        data = TensorDataset(self.inputs, self.numbers)
        if self.kind == "stream":
            return DataLoader(Whole(data), batch_size)
        if self.kind == "validation":
            return DataLoader(data, batch_size, sampler=sampler(data))
        return DataLoader(data, batch_size, shuffle=self.kind == "shuffled")

    def get_val_dataloaders(self, sampler, batch_size):
        data = TensorDataset(self.inputs[:13], self.numbers[:13])
        return DataLoader(data, batch_size, sampler=None if self.kind == "validation" else sampler(data))


class Whole(IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter([self.data[number] for number in range(len(self.data))])


class Straying(Plain):
    """Changes a weight by itself at each rank."""

    def on_end_train_step(self, global_step, *outputs):
        with torch.no_grad():
            self.layers[2].bias.add_(float(rank()))


class Counting(Plain):
    """Counts the samples of a validation by itself."""

    def __init__(self):
        super().__init__()
        self.counted: list[int] = []

    def val_step(self, global_step, batch, device):
        self.counted += batch[1].tolist()
        return super().val_step(global_step, batch, device)


def differ(directory: str, backend: str) -> dict:
    """Trains what ranks have made otherwise, or read alike."""
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("marlin_ckpt").addHandler(handler)

    def train(module, **fields):
        torch.manual_seed(7)
        unsaved = {"checkpointer": {"checkpoint": False}, "backend": backend, "epochs": 1}
        trainer = trainer_in(Path(directory), module=module, **{**unsaved, **fields})
        trainer.train()
        return trainer

    refused = {
        "rate": Rated, "hidden": Hiding, "split": Split, "length": partial(Split, cut=8),
        "few": partial(Split, samples=1),
    }  # fmt: skip
    of_sharding = {"buffers": Buffered, "early": Early, "experts": Experts, "ties": Tied}
    if backend == "fsdp2":
        refused |= of_sharding
    wraps = {"ties": ["Linear"]}
    found: dict = {
        name: failure(lambda make=make, name=name: train(make, fsdp=FsdpArguments(wraps.get(name, "auto"))))
        for name, make in refused.items()
    }
    if backend == "fsdp2":
        found["one group"] = failure(lambda: train(Experts, fsdp=FsdpArguments([])))
    uneven = train(Apart)
    found["apart"] = [uneven.module.steps_per_epoch, uneven.global_steps_finished, weights(uneven)]
    found["counted"] = train(Counting, val_batch_size=2).module.counted
    found["quiet"] = list(warnings)
    for kind in ("in order", "shuffled", "stream", "validation"):
        warnings.clear()
        train(partial(Repeating, kind), epochs=2, max_train_steps_per_epoch=2)
        found[kind] = list(warnings)
    if backend == "ddp":
        warnings.clear()
        train(Straying, epochs=2)
        found["straying"] = list(warnings)
    return found
