"""Saves that share what has not changed, and what their files say of it."""

from __future__ import annotations

import os

import pytest
import torch

from marlin_ckpt import CheckpointDirectory
from marlin_ckpt.formats import digests, placed
from marlin_ckpt.saving.sharing import decide
from marlin_ckpt.saving.sharing.decide import Copy
from marlin_ckpt.storage.paths import open_source

LARGE = 300_000  # float32: more than a MiB, and no whole blocks


def origins(path) -> dict[str, int]:
    """The number of the save that wrote each large record."""
    with open_source(os.fspath(path)) as source:
        return {name: one.origin.save_number for name, one in (digests.read(source) or {}).items()}


def in_place(path) -> set[str]:
    """The names of the large records whose data is where a file says, and has the digest that it says."""
    found = set()
    with open_source(os.fspath(path)) as source:
        for name, one in placed.read(source).items():
            hashing = digests.Hashing()
            hashing.add(memoryview(source.read(one.start, one.size)))
            if hashing.digest() == one.digested.digest:
                found.add(name)
    return found


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


def share_all(directory) -> list[str]:
    """Saves a state twice, of which the second file has no large tensor of its own, as by `cp --reflink`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decide, "copies", _any_copy)
        return saves(directory, states_of_a_run(1) * 2)


def _any_copy(sources, *_):
    return {name: [Copy(place, held)] for place, records in sources for name, held in records.items()}
