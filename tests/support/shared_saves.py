"""Saves that share what has not changed, and what their files say of it."""

from __future__ import annotations

import os

import torch

from marlin_ckpt import CheckpointDirectory
from marlin_ckpt.formats import digests
from marlin_ckpt.storage.paths import open_source

LARGE = 300_000  # float32: more than a MiB, and no whole blocks


def origins(path) -> dict[str, int]:
    """The number of the save that wrote each large record."""
    with open_source(os.fspath(path)) as source:
        return {name: one.origin.save_number for name, one in (digests.read(source) or {}).items()}


def saves(directory, states, **how):
    with CheckpointDirectory(directory, share_unchanged=True, **how) as there:
        for index, state in enumerate(states):
            there.save(state, index)
    return [there.path + f"/model_{index}.pt" for index in range(len(states))]


def base() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"frozen": torch.randn(LARGE), "trained": torch.randn(LARGE), "small": torch.zeros(3)}


def states_of_a_run(count: int) -> list[dict[str, torch.Tensor]]:
    state = base()
    return [
        {**state, "trained": state["trained"] + step, "small": torch.ones(3) * step} for step in range(count)
    ]
