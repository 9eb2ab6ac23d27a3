"""Training loops whose states are saved while they run."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.states import Shape, flat
from marlin_ckpt import Checkpoint
from marlin_ckpt.arguments import TextArguments
from marlin_ckpt.training.toys.text import Text

_TEXT = Path(__file__).parent.parent / "configs" / "sonnets.txt"
_WINDOWS = 2  # a step then takes longer than the copy of the state
_SAMPLES = 64  # likewise
_FEW_SAMPLES = 4  # a step then takes less than half of a save
_PIECE_BYTES = 4 << 20  # copied in one call, which lets go of the interpreter's lock
_TINY = 100  # the width of what --quick trains is less


@dataclass(frozen=True)
class Loop:
    """A module that trains with AdamW.

    Attributes:
        name: of the loop.
        module: what learns.
        optimizer: of the module.
        loss: computed anew for each step.
    """

    name: str
    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[], torch.Tensor]

    def forward(self) -> None:
        """Forward and backward, which leave the state as it is."""
        self.loss().backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        """The optimizer, which changes the state; returns for how long it was held before that."""
        # The hooks of one optimizer are called after those that everybody else has set for all.
        begun: list[float] = []
        hook = self.optimizer.register_step_pre_hook(lambda *_: begun.append(time.perf_counter()))
        asked = time.perf_counter()
        self.optimizer.step()
        hook.remove()
        self.optimizer.zero_grad()
        return begun[0] - asked

    def wait(self) -> None:
        """Returns when the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return next(self.module.parameters()).device

    def checkpoint(self) -> Checkpoint:
        """The state, sharing its memory."""
        return Checkpoint(self.module.state_dict(), {"optimizer": self.optimizer.state_dict()}, {})


def aside(loop: Loop) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each tensor of the state another one, in memory that is there, and itself."""
    return [(torch.ones_like(tensor), tensor) for _, tensor in flat(loop.checkpoint().payload())]


def copy_s(pairs: list[tuple[torch.Tensor, torch.Tensor]], rounds: int) -> float:
    """How long two threads take to copy the second of each pair into the first, whose memory is there."""
    pieces = [
        (target.data_ptr() + at, source.data_ptr() + at, min(_PIECE_BYTES, source.nbytes - at))
        for target, source in pairs
        for at in range(0, source.nbytes, _PIECE_BYTES)
    ]
    times = []
    with ThreadPoolExecutor(2) as threads:
        for _ in range(rounds + 1):
            began = time.perf_counter()
            list(threads.map(lambda piece: ctypes.memmove(*piece), pieces))
            times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def both(shape: Shape) -> Iterator[Callable[[], Loop]]:
    """Makes a wide perceptron, then the module `text`, each of about as many parameters as a GPT-2 has."""
    yield lambda: wide(*_wide(shape))
    yield lambda: text(shape)


def short(shape: Shape) -> Loop:
    """The wide perceptron with few samples, of whose steps several fall into one save."""
    return wide(*_wide(shape), name="a wide perceptron, few samples", samples=_FEW_SAMPLES)


def _wide(shape: Shape) -> tuple[int, int]:
    return (4096, 7) if shape.width > _TINY else (shape.width, 2)


def wide(  # noqa: PLR0913 - each is a property of the loop
    width: int,
    layers: int,
    device: torch.device | None = None,
    prepare: Callable[[torch.nn.Module], object] = lambda _: None,
    *,
    name: str = "a wide perceptron",
    samples: int = _SAMPLES,
) -> Loop:
    """A perceptron of large matrices.

    Args:
        width: of each.
        layers: how many.
        device: where it is; by default on the CPU.
        prepare: called with it before it gets its optimizer.
        name: of the loop.
        samples: in each step.
    """
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        *(part for _ in range(layers) for part in (torch.nn.Linear(width, width), torch.nn.ReLU()))
    )
    module.to(device)
    prepare(module)
    batch = torch.randn(samples, width, device=device)
    return _begun(name, module, lambda: module(batch).square().mean())


def text(shape: Shape) -> Loop:
    """The module `text`, as large as a GPT-2."""
    torch.manual_seed(0)
    arguments = TextArguments(
        files=[str(_TEXT)],
        context=min(shape.context, 64),
        width=shape.width,
        depth=shape.layers,
        heads=4,
        vocabulary_size=shape.vocabulary,
    )
    module = Text(arguments)
    windows = torch.randint(0, len(module.characters), (_WINDOWS, arguments.context + 1))
    return _begun("the module `text`", module, lambda: module.train_step(0, windows, torch.device("cpu")))


def _begun(name: str, module: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Loop:
    loop = Loop(name, module, torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True), loss)
    loop.forward()
    loop.step()  # now the moments are there too
    return loop
