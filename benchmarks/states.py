"""The states that are saved: modules of GPT-2's shapes with an AdamW that has stepped, and many tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from marlin_ckpt import Checkpoint

_ROWS = 768  # floats: a tensor of 3 KB


@dataclass(frozen=True)
class Shape:
    """The sizes of a GPT-2."""

    width: int
    layers: int
    vocabulary: int = 50257
    context: int = 1024


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        medium: the state that most rows save and restore.
        small: where a save's fixed costs show.
        large: more than 4 GiB.
        tensors: how many a state of tiny tensors holds.
        few_files: in the directory of `marlin-ckpt latest`.
        many_files: in the directory of `get_latest_file`.
        two_ranks: the state that two ranks save together.
        remote: the state that is saved to object storage.
        wide: the width and the layers of the perceptron that two ranks train.
        ranks: of the run whose rank 0 plans a sharded checkpoint.
        sharded: the tensors of that.
    """

    medium: Shape
    small: Shape
    large: Shape
    tensors: int
    few_files: int
    many_files: int
    two_ranks: Shape
    remote: Shape
    wide: tuple[int, int]
    ranks: int
    sharded: int


FULL = Sizes(
    medium=Shape(width=768, layers=12),  # GPT-2 small
    small=Shape(width=128, layers=2, vocabulary=3300, context=128),
    large=Shape(width=1280, layers=22),
    tensors=5_000,
    few_files=1_000,
    many_files=100_000,
    two_ranks=Shape(width=768, layers=7),
    remote=Shape(width=768, layers=7),  # 1 GiB
    wide=(4096, 5),
    ranks=1_024,
    sharded=2_169,
)
_TINY = Shape(width=32, layers=2, vocabulary=500, context=64)
QUICK = Sizes(
    medium=_TINY,
    small=_TINY,
    large=_TINY,
    tensors=50,
    few_files=10,
    many_files=100,
    two_ranks=_TINY,
    remote=_TINY,
    wide=(32, 2),
    ranks=32,
    sharded=20,
)


class _Attention(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_attn = torch.nn.Linear(width, 3 * width)
        self.c_proj = torch.nn.Linear(width, width)


class _Perceptron(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = torch.nn.Linear(width, 4 * width)
        self.c_proj = torch.nn.Linear(4 * width, width)


class _Block(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = torch.nn.LayerNorm(width)
        self.attn = _Attention(width)
        self.ln_2 = torch.nn.LayerNorm(width)
        self.mlp = _Perceptron(width)


class GPT2(torch.nn.Module):
    """The parameters of GPT-2 under their usual names; it never runs."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.wte = torch.nn.Embedding(shape.vocabulary, shape.width)
        self.wpe = torch.nn.Embedding(shape.context, shape.width)
        self.h = torch.nn.ModuleList(_Block(shape.width) for _ in range(shape.layers))
        self.ln_f = torch.nn.LayerNorm(shape.width)


@dataclass(frozen=True)
class Training:
    """A module and its optimizer, alive."""

    module: torch.nn.Module
    optimizer: torch.optim.Optimizer

    def checkpoint(self) -> Checkpoint:
        """Their state, sharing their memory."""
        return Checkpoint(self.module.state_dict(), {"optimizer": self.optimizer.state_dict()}, {})

    def tensors(self) -> list[torch.Tensor]:
        """Every tensor that a restore has to fill."""
        return [tensor for _, tensor in flat(self.checkpoint().payload())]


def training(shape: Shape) -> Training:
    """A GPT-2 of random weights after one step of AdamW, so that the moments hold something too."""
    with torch.device("meta"):  # the usual initialisation would take longer than all the saves
        module: torch.nn.Module = GPT2(shape)
    module = module.to_empty(device="cpu")
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
        parameter.grad = parameter.detach()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    optimizer.step()
    optimizer.zero_grad()
    return Training(module, optimizer)


def many_tensors(count: int) -> Checkpoint:
    """A state of `count` tensors of 3 KB."""
    return Checkpoint({f"layer.{number}.weight": torch.randn(_ROWS) for number in range(count)}, {}, {})


def flat(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a nested state under dotted names, for those who save nothing else."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{name}.{key}" if name else str(key))


def size_bytes(checkpoint: Checkpoint) -> int:
    """The size of the tensors of a state."""
    return sum(tensor.nbytes for _, tensor in flat(checkpoint.payload()))


def size_text(count: int) -> str:
    """`1.49 GB`."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
