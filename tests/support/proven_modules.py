"""Modules whose runs are stopped and resumed: a careful one, and some with a fault each."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from marlin_ckpt import ModuleInterface


class Points(Dataset):
    """Points that are moved a little each time they are read, as images are cropped."""

    def __init__(self, count: int = 44):
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(count, 5, generator=generator)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        moved = self.inputs[index] + 0.1 * torch.randn(5) + 0.1 * random.random()
        return moved, moved.sum().reshape(1)


class Stream(IterableDataset):
    def __iter__(self):
        points = Points()
        return iter([points[index] for index in range(len(points))])


class Careful(ModuleInterface):
    """Dropout, batch norm, samples that are drawn, a schedule: everything that it draws is torch's."""

    def __init__(
        self,
        workers: int = 0,
        loader: str = "sampler",
        fused: bool = False,
        foreach: bool = False,
        schedule: str = "cosine",
        trained_from: int = 0,
    ):
        super().__init__()
        self.settings = (workers, loader)
        self.kinds = {"fused": fused, "foreach": foreach}
        self.schedule, self.trained_from = schedule, trained_from
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(5, 16),
            torch.nn.BatchNorm1d(16),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.3),
            torch.nn.Linear(16, 1),
        )
        self.data = Points()

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        trained = self.layers[self.trained_from :]
        optimizer = torch.optim.AdamW(trained.parameters(), lr=0.01, **self.kinds)
        total = max(1, estimated_global_steps_per_epoch * epochs)
        schedules = {
            "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total),
            "epoch": lambda: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
        }
        return [optimizer], [schedules[self.schedule]()]

    def get_train_dataloader(self, sampler, batch_size):
        workers, loader = self.settings
        options = {"num_workers": workers}
        if loader == "shuffle":
            return DataLoader(self.data, batch_size, shuffle=True, **options)
        if loader == "stream":
            return DataLoader(Stream(), batch_size, **options)
        if loader == "stateful":
            from torchdata.stateful_dataloader import StatefulDataLoader

            return StatefulDataLoader(self.data, batch_size, sampler=sampler(self.data), **options)
        if loader == "unbatched":
            return DataLoader(self.data, None, sampler=sampler(self.data), **options)
        return DataLoader(self.data, batch_size, sampler=sampler(self.data), **options)

    def get_val_dataloaders(self, sampler, batch_size):
        return DataLoader(self.data, batch_size, sampler=sampler(self.data))

    def train_step(self, global_step, batch, device):
        inputs, targets = batch
        outputs = self.layers(inputs.reshape(-1, 5).to(device))
        return torch.nn.functional.mse_loss(outputs, targets.reshape(-1, 1).to(device))

    def val_step(self, global_step, batch, device):
        return self.train_step(global_step, batch, device)

    def on_end_val_epoch(self, global_step, *outputs, key="default"):
        self.measured = {"val_loss": float(outputs[0].mean())}

    def get_metrics(self):
        return self.measured


class OwnGenerator(Careful):
    """Draws noise from a generator that it saves nowhere."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(5)

    def train_step(self, global_step, batch, device):
        inputs, targets = batch
        return super().train_step(
            global_step, (inputs + torch.randn(inputs.shape, generator=self.generator), targets), device
        )


class ByTime(Careful):
    """Shuffles by the clock."""

    def get_train_dataloader(self, sampler, batch_size):
        generator = torch.Generator().manual_seed(time.time_ns() % 2**60)
        return DataLoader(self.data, batch_size, sampler=RandomSampler(self.data, generator=generator))


class AnotherRate(Careful):
    """Its rate is another one each time that it is made."""

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        optimizers, _ = super().get_optimizers_schedulers(estimated_global_steps_per_epoch, epochs)
        counter = Path(os.environ["COUNTER"])
        made = int(counter.read_text()) if counter.exists() else 0
        counter.write_text(str(made + 1))
        optimizers[0].param_groups[0]["lr"] = 0.01 if made < 2 else 0.02
        return optimizers, []


class Counting(Careful):
    """Counts its steps, and forgets the count when it dies."""

    steps = 0

    def train_step(self, global_step, batch, device):
        self.steps += 1
        return super().train_step(global_step, batch, device) * self.steps


class Annealed(Careful):
    """Takes less noise after each validation, and forgets that when it dies."""

    noise = 1.0

    def train_step(self, global_step, batch, device):
        inputs, targets = batch
        return super().train_step(global_step, (inputs * (1 + self.noise), targets), device)

    def on_end_val_epoch(self, global_step, *outputs, key="default"):
        super().on_end_val_epoch(global_step, *outputs, key=key)
        self.noise /= 2


class Short(Careful):
    """Ends its run after two epochs, as it decides in the first half of the second one."""

    def on_end_train_step(self, global_step, *outputs):
        if global_step == 8:
            self.should_stop = True


class Broken(Careful):
    def train_step(self, global_step, batch, device):
        raise RuntimeError("out of luck")
