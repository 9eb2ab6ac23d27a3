"""A module that learns a line, any part of which may be odd, and a checkpointer that only remembers."""

import torch
from torch.utils.data import DataLoader, TensorDataset

from marlin_ckpt import AbstractCheckpointer, Checkpoint, ModuleInterface, Trainer, TrainerArguments


class Shelf(AbstractCheckpointer):
    def __init__(self):
        self.kept = []
        self.loads = 0

    def save(self, checkpoint_state, index, force=False):
        self.kept.append((index, checkpoint_state))

    def load(self):
        self.loads += 1
        return Checkpoint()


class Tiny(ModuleInterface):
    """A line through 32 points; what is odd about a module is handed in."""

    def __init__(self, optimizer=None, scheduler=None, train_loader="own", val_loaders="own", metrics=None):
        super().__init__()
        self.net = torch.nn.Linear(4, 1)
        self.idle = torch.nn.Linear(4, 1)
        self.data = TensorDataset(torch.randn(32, 4, generator=torch.Generator().manual_seed(1)))
        self.kinds = optimizer, scheduler
        self.loaders = train_loader, val_loaders
        self.metrics = list(metrics or [])
        self.steps, self.validated = 0, []

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        optimizer, scheduler = self.kinds
        made = [torch.optim.SGD(self.net.parameters(), lr=1.0)] if optimizer is None else optimizer(self)
        self.optimizer = made[0]
        return made, [] if scheduler is None else [scheduler(made[0])]

    def get_train_dataloader(self, sampler, batch_size):
        own = DataLoader(self.data, batch_size=batch_size, sampler=sampler(self.data))
        return own if self.loaders[0] == "own" else self.loaders[0]

    def get_val_dataloaders(self, sampler, batch_size):
        own = DataLoader(self.data, batch_size=batch_size, sampler=sampler(self.data))
        return own if self.loaders[1] == "own" else self.loaders[1]

    def train_step(self, global_step, batch, device):
        self.steps += 1
        return self.net(batch[0]).square().mean()

    def val_step(self, global_step, batch, device):
        return batch[0]

    def on_end_val_epoch(self, global_step, *outputs, key="default"):
        self.validated.append(key)

    def get_metrics(self):
        return self.metrics.pop(0) if self.metrics else {}


def trained(module, **fields):
    shelf = Shelf()
    arguments = {"epochs": 1, "train_batch_size": 8, "val_batch_size": 8, "device": "cpu", **fields}
    trainer = Trainer(module, TrainerArguments(**arguments), checkpointer=shelf)
    trainer.train()
    return trainer, shelf
