"""Which parts of a sharded module a rank has run, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import TrainingError
from marlin_ckpt.training.parallel import alike


class Passes:
    """Follows the passes through the parts of a module, each of which all ranks gather together.

    What is gathered has no name: where one rank runs another part than the others, torch takes what it needs
    out of theirs, and where these are as large, nobody notices.
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        """Takes the parts, by their names, and looks at each from now on.

        Args:
            parts: that are gathered one at a time.
        """
        self._names, self._parts = list(parts), list(parts.values())
        self._runs: list[
            int
        ] = []  # a part's number where it begins, and the complement of that where it ends
        self._since = 0
        self._gradients: list[tuple[str, str]] = []
        for number, part in enumerate(self._parts):
            part.register_forward_pre_hook(partial(self._note, number))
            part.register_forward_hook(partial(self._note, ~number))

    def _note(self, number: int, *_: Any) -> None:
        self._runs.append(number)

    def begin(self) -> None:
        """Has `repeat` repeat what is run from now on."""
        self._since = len(self._runs)

    def repeat(self) -> None:
        """Gathers the parts once more that were run last, in their order, and computes nothing."""
        last = self._runs[self._since :]
        self.begin()
        runs = iter(last)
        with torch.no_grad():
            for number in runs:
                self._call(number, runs)

    def _call(self, number: int, runs: Iterator[int]) -> None:
        def forward(*_: Any, **__: Any) -> None:
            for inner in runs:
                if inner == ~number:
                    return
                self._call(inner, runs)

        part = self._parts[number]
        before = vars(part).get("forward")
        part.forward = forward
        try:
            part()
        finally:
            del part.forward
            if before is not None:
                part.forward = before

    def note_gradients(self, module: nn.Module) -> None:
        """Notes which parameters have gradients, which all ranks have summed together."""
        missing = [name for name, one in module.named_parameters() if one.requires_grad and one.grad is None]
        self._gradients.append(("which parameters have gradients", repr(missing)))

    def compare(self, ranks: Ranks) -> None:
        """Forgets what was run since the last call, and refuses it where ranks have run different parts.

        Args:
            ranks: that all call this.

        Raises:
            TrainingError: they have.
        """
        runs = [(self._names[max(one, ~one)], "begins" if one >= 0 else "ends") for one in self._runs]
        found = [*runs, *self._gradients]
        self._runs.clear()
        self._gradients.clear()
        self._since = 0
        if name := alike.first_difference(ranks, found):
            what = (
                "the ranks have run different parts of the module, and have mixed up their parameters or "
                f"gradients; the first that differs: {name}"
            )
            hint = "let no rank choose by itself which parts it runs, or take trainer.backend: ddp"
            raise TrainingError(what, hint=hint)
