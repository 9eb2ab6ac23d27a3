"""Modules and optimizers whose states are saved and restored, and copies of these to compare with."""

from __future__ import annotations

import torch

from marlin_ckpt import Checkpoint


def trained(module: torch.nn.Module, steps: int = 2) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    for _ in range(steps):
        for parameter in module.parameters():
            parameter.grad = torch.rand_like(parameter)
        optimizer.step()
    return optimizer


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def copied(state):
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: copied(part) for key, part in state.items()}
    return [copied(part) for part in state] if isinstance(state, list) else state


def saved(checkpointer, module, optimizer=None) -> tuple[dict, dict | None]:
    trainer = None if optimizer is None else {"epoch": 3, "optimizer": optimizer.state_dict()}
    checkpointer.save(Checkpoint(module.state_dict(), trainer, {}), 0)
    return copied(dict(module.state_dict())), None if optimizer is None else copied(optimizer.state_dict())


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
