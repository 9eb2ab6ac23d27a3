"""A training whose state takes a dozen copies and a dozen writes."""

from __future__ import annotations

from pathlib import Path

import torch

from marlin_ckpt import Checkpoint
from tests.support.async_runs import same


class Training:
    """An optimizer that is known, and a state that takes a dozen copies and a dozen writes."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = torch.nn.Linear(64, 64)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.1)
        self.steps = 0
        self.step()

    def step(self) -> None:
        self.module(torch.randn(4, 64)).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.module.state_dict(), {"optimizer": self.optimizer.state_dict()}, {})

    def is_in(self, path: Path, state: Checkpoint) -> bool:
        loaded = torch.load(path)
        return all(
            same(loaded[name], getattr(state, name)) for name in ("module_interface_state", "trainer_state")
        )


def as_it_is(checkpoint: Checkpoint) -> Checkpoint:
    """A state that no step changes."""

    def copied(value):
        if isinstance(value, dict):
            return {key: copied(one) for key, one in value.items()}
        return value.detach().clone() if isinstance(value, torch.Tensor) else value

    return Checkpoint(copied(checkpoint.module_interface_state), copied(checkpoint.trainer_state), {})
