"""What the ranks of tests/unit/training/parallel do: trainings, several in one run."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from marlin_ckpt import ModuleInterface, Preempted, Trainer
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.training.resume.leaves import fingerprint
from tests.support.proven_modules import Careful
from tests.support.stopped_runs import final_state, trainer_in


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
    """Measures what its own rank alone has seen."""

    def on_end_val_epoch(self, global_step, *outputs, key="default"):
        super().on_end_val_epoch(global_step, *outputs, key=key)
        rank = torch.distributed.get_rank()
        self.measured |= {"own": float(rank)}
        self.should_stop = rank == 1  # which rank 0 does not see


def trained(directory: Path, module, **fields) -> Trainer:
    torch.manual_seed(7)
    trainer = trainer_in(directory, module=module, **{"epochs": 2, **fields})
    trainer.train()
    return trainer


def prints(trainer: Trainer) -> dict:
    return {name: fingerprint(one) for name, one in final_state(trainer).items()}


def weights(trainer: Trainer) -> list:
    return [value for one in trainer.module.state_dict().values() for value in one.reshape(-1).tolist()]


def equals_one_process(directory: str) -> dict:
    """Trains on the ranks, and by rank 0 alone."""
    found = {}
    world_size = Ranks().world_size
    for name, fields in {
        "plain": {},
        "accumulated": {"gpu_batch_size_limit": 2},
        "clipped": {"max_grad_norm": 0.01, "gpu_batch_size_limit": 2},
        "partial": {"train_batch_size": 16, "gpu_batch_size_limit": 2},
        "limited": {"max_train_steps_per_epoch": 3},
    }.items():
        options = {"train_batch_size": 8, **fields}
        make = partial(Plain, 48 if name != "partial" else 40)  # 16, 16 and 8
        many = trained(Path(directory, f"{name}-many"), make, backend="ddp", **options)
        whole = {**options, "gpu_batch_size_limit": options.get("gpu_batch_size_limit", 256) * world_size}
        one = trained(Path(directory, f"{name}-one-{os.environ['RANK']}"), make, backend="sp", **whole)
        found[name] = {
            "many": weights(many), "one": weights(one),
            "seen": many.module.seen, "seen_by_one": one.module.seen,
            "steps": [many.global_steps_finished, one.global_steps_finished],
            "metrics": [many._metrics, one._metrics], "validated": many.module.validated,
        }  # fmt: skip
    return found


def resumes(directory: str, size: int, cases: list[list]) -> dict:
    """Trains straight, and stopped by a signal at one rank; whether both are the same at this rank."""
    found = {}
    rank = int(os.environ["RANK"])
    for number, (args, fields, checkpointer) in enumerate(cases):
        options = {"backend": "ddp", "train_batch_size": size, "epochs": 3, **fields}

        def make(where, observer, args=args, checkpointer=checkpointer, options=options, number=number):
            return trainer_in(
                Path(directory, f"{where}-{number}"),
                observer,
                lambda: Careful(**args),
                checkpointer,
                **options,
            )

        straight = make("whole", None)
        straight.train()
        codes = []
        for stop in (1, 4, 5, 9):
            cut = make("cut", None)
            if rank == 1:
                send_after(cut, stop)
            try:
                cut.train()
            except Preempted as stopped:
                codes.append([stopped.code, os.path.basename(stopped.path), cut.global_steps_finished])
        last = make("cut", None)
        last.train()
        ours, theirs = prints(straight), prints(last)
        found[str(number)] = {
            "codes": codes,
            "differ": {
                name: [one, theirs.get(name)] for name, one in ours.items() if one != theirs.get(name)
            },
            "files": sorted(os.listdir(Path(directory, f"cut-{number}"))),
        }
    return found


def send_after(trainer: Trainer, step: int) -> None:
    """Sends this process a signal after a step."""
    import signal

    def end(global_step: int, *outputs) -> None:
        if global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.module.on_end_train_step = end
