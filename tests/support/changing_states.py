"""States of all kinds, and changes of one thing in them."""

from __future__ import annotations

import copy
import datetime
import math
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch


class Thing:
    """An object of the user's, which changes without anything that shows it from outside."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _tensor(size: int = 3) -> torch.Tensor:
    return torch.arange(float(size))


SCALARS: list[Any] = [
    *(0, 1, -1, 255, 256, 65536, 2**31, -(2**31), 2**63, -(2**2039), 2**2040),
    *(0.0, -0.0, 1.0, math.nan, -math.nan, math.inf, True, False, None),
]
TEXTS: list[Any] = [
    "",
    "a",
    "0",
    "cpu",
    "storage",
    "latin1",
    str(b"cpu", "ascii"),
    "\ud800",
    "step",
    b"",
    b"a",
    b"\xff" * 300,
]
TENSORS: list[Callable[[], Any]] = [
    _tensor,
    lambda: torch.nn.Parameter(_tensor()),
    lambda: _tensor().double(),
    lambda: _tensor(6)[::2],
    lambda: _tensor(6).view(2, 3).t(),
    lambda: _tensor(6).view(2, 3),
    lambda: _tensor(6)[3:],
    lambda: _tensor().requires_grad_(),
    lambda: torch.empty(0),
    lambda: torch.empty(0, 3),
    lambda: torch.tensor(1),
    lambda: _tensor().to(torch.bfloat16),
    lambda: _tensor() > 1,
    lambda: torch.complex(_tensor(), _tensor()),
    lambda: torch.complex(_tensor(), _tensor()).conj(),
    lambda: torch.complex(_tensor(), _tensor()).conj().imag,
    lambda: torch.complex(_tensor(), _tensor()).imag,
    lambda: torch.eye(3).to_sparse(),
    lambda: torch.quantize_per_tensor(_tensor(), 0.5, 0, torch.qint8),
    torch.get_rng_state,
]  # fmt: skip
OTHERS: list[Callable[[], Any]] = [
    lambda: np.float64(1.5),
    lambda: np.int64(1),
    lambda: np.arange(3),
    lambda: np.arange(3.0)[::-1],
    lambda: PurePosixPath("a/b"),
    lambda: datetime.date(2026, 1, 2),
    lambda: Thing(1),
    lambda: Thing(_tensor()),
    lambda: {1, 2},
    lambda: frozenset({"a"}),
    lambda: Counter("aab"),
    lambda: deque([1]),
    lambda: 1j,
    lambda: torch.float32,
    lambda: torch.device("cpu"),
    lambda: torch.Size([1, 2]),
    lambda: Thing,
    lambda: slice(1, 2),
    random.getstate,
    lambda: _tensor().untyped_storage(),
]  # fmt: skip
KEYS: list[Any] = ["a", "b", "0", "cpu", 0, 1, True, 2.5, None, ("a", 1)]


class States:
    """Draws states, and changes one thing in them."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._made: list[Any] = []

    def tree(self, depth: int = 3) -> Any:
        """A value, or some in containers."""
        chance = self._chance
        kind = chance.choice([dict, OrderedDict, list, tuple, None, None] if depth else [None])
        if self._made and chance.random() < 0.15:
            return chance.choice(self._made)  # shared
        if kind is None:
            made = self.leaf()
        elif kind in (list, tuple):
            made = kind(self.tree(depth - 1) for _ in range(chance.randrange(4)))
        else:
            made = kind((chance.choice(KEYS), self.tree(depth - 1)) for _ in range(chance.randrange(4)))
            if kind is OrderedDict and chance.random() < 0.5:
                made._metadata = {"version": chance.choice(SCALARS)}
        self._made.append(made)
        return made

    def leaf(self) -> Any:
        """A value that is no container of ours."""
        chance = self._chance
        at = chance.random()
        if at < 0.4:
            return chance.choice(SCALARS)
        if at < 0.5:
            return chance.choice(TEXTS)
        return chance.choice(TENSORS if at < 0.9 else OTHERS)()

    def change(self, state: Any) -> None:
        """Changes one thing somewhere in a state, whose root is a dict."""
        chance = self._chance
        containers, tensors = _parts_of(state)
        inner = chance.choice(containers)
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        how = chance.randrange(8)
        if how == 0 and tensors:
            _change_tensor(chance, chance.choice(tensors))
        elif how == 1 and tensors and keys:
            inner[chance.choice(keys)] = chance.choice(tensors)  # tied
        elif how == 2 and keys:
            key = chance.choice(keys)
            inner[key] = copy.deepcopy(inner[key])  # shared no more
        elif how == 3 and keys:
            first = inner.pop(keys[0])  # the order
            inner.update({keys[0]: first}) if isinstance(inner, dict) else inner.append(first)
        elif how == 4 and keys:
            inner[chance.choice(keys)] = self.tree(1)
        elif keys:
            key = chance.choice(keys)
            inner[key] = (
                chance.choice(SCALARS) if type(inner[key]) in (int, float, bool, type(None)) else self.leaf()
            )
        elif isinstance(inner, dict):
            inner["new"] = self.leaf()
        else:
            inner.append(self.leaf())


def _parts_of(state: Any) -> tuple[list[Any], list[torch.Tensor]]:
    """The dicts and lists of a state, and its tensors."""
    containers: list[Any] = []
    tensors: list[torch.Tensor] = []
    pending, seen = [state], set[int]()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, (dict, list)):
            containers.append(value)
        if isinstance(value, OrderedDict):
            pending.append(vars(value))
        if isinstance(value, (dict, list, tuple)):
            pending.extend(value.values() if isinstance(value, dict) else value)
    return containers, tensors


def _change_tensor(chance: random.Random, tensor: torch.Tensor) -> None:
    def grow() -> None:
        tensor.untyped_storage().resize_(tensor.untyped_storage().nbytes() + 8)

    def mark() -> None:
        tensor.mark = 1

    changes: list[Callable[[], Any]] = [
        grow,
        mark,
        lambda: tensor.requires_grad_(not tensor.requires_grad),
        lambda: tensor.unsqueeze_(0),
        tensor.t_,
        lambda: tensor.set_(torch.ones(7)),
        lambda: tensor.resize_(2),
        lambda: tensor.data.fill_(1),
        lambda: tensor.register_hook(lambda _: None),
        lambda: setattr(tensor, "data", tensor.data.double()),
    ]
    try:
        chance.choice(changes)()
    except (RuntimeError, TypeError, NotImplementedError):  # not every tensor can
        return
