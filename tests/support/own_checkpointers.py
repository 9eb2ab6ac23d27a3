"""Checkpointers of a user's own, by which ranks train with FSDP2."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist

import marlin_ckpt
from marlin_ckpt import AbstractCheckpointer, Checkpoint, Trainer
from tests.support.modules_of_ranks import Plain
from tests.support.stopped_runs import arguments
from tests.support.training_ranks import failure, weights


class Alone(AbstractCheckpointer):
    """Saves what it is given, at rank 0."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def save(self, checkpoint_state: Checkpoint, index: int, force: bool = False) -> str | None:
        return marlin_ckpt.save(checkpoint_state.payload(), f"{self.directory}/own_{index}.pt").path

    def load(self) -> Checkpoint:
        return Checkpoint()


class Together(Alone):
    """All ranks save their parts, and load them."""

    def saves_together(self, state: Any) -> bool:
        return True

    def save(self, checkpoint_state: Checkpoint, index: int, force: bool = False) -> str | None:
        return marlin_ckpt.save(checkpoint_state.payload(), f"{self.directory}/own_{index}.dcp").path

    def load(self, into: Checkpoint | None = None) -> Checkpoint:
        live = {key: one for key, one in into.payload().items() if one is not None} if into else None
        try:
            return Checkpoint(**marlin_ckpt.load(self.directory, into=live))
        except marlin_ckpt.CheckpointNotFoundError:
            return Checkpoint()


def _trained(checkpointer: AbstractCheckpointer, epochs: int) -> list[Any]:
    torch.manual_seed(7)
    trainer = Trainer(Plain(), arguments(backend="fsdp2", epochs=epochs), checkpointer=checkpointer)
    before = trainer.last_epoch
    trainer.train()
    return [before, weights(trainer)]


def train(directory: str) -> dict[str, Any]:
    """Trains with each: what is raised, and how a run ends that was stopped and resumed."""
    for name in ("straight", "again"):
        os.makedirs(f"{directory}/{name}", exist_ok=True)
    alone = failure(lambda: _trained(Alone(directory), 1))
    straight = _trained(Together(f"{directory}/straight"), 2)
    _trained(Together(f"{directory}/again"), 1)
    again = _trained(Together(f"{directory}/again"), 2)
    dist.barrier()
    return {"alone": alone, "straight": straight, "again": again, "files": sorted(os.listdir(directory))}
