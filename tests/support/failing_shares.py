"""Saves that share blocks with earlier files while system calls fail, and judges what is then there."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from marlin_ckpt import Checkpoint, DefaultCheckpointer
from marlin_ckpt.checkpointer import sharing
from marlin_ckpt.formats import digests
from marlin_ckpt.saving.sharing import looking, past
from marlin_ckpt.storage.local import cloning
from tests.support.clones import REFUSALS as CLONE_REFUSALS
from tests.support.clones import Clones
from tests.support.failing_calls import ABSORBED, ALL, REFUSALS, TARGET, Campaign, Fault, System

BLOCKS = 6000  # elements of what is shared: five blocks and a part of one
EARLIER = {1: "model_1.pt", 2: "model_2.pt"}

# What could not be shared is written, unless the disk is full; and a file that cannot be looked at any more
# is not shared with again.
SHARED = {
    "clone temporary": ALL - {errno.ENOSPC, errno.EDQUOT} | {*CLONE_REFUSALS},
    **dict.fromkeys(["fstat source", "close source", "fstat old"], ALL),
    "ftruncate first": frozenset(REFUSALS),  # which some file systems answer to a length beyond the data
}


class SharingSystem(System):
    """Tells the files that are shared with from others, and where the new one gets its length at first."""

    def _label(self, module, name: str, args: tuple) -> str:
        label = super()._label(module, name, args)
        if label == "ftruncate temporary" and "pwrite threads" not in self.labels:
            return "ftruncate first"
        return label.replace(" dup", " source") if not self.stage else label


class SharingCampaign(Campaign):
    """Saves after two others of the same process, of which a part is shared.

    Attributes:
        earlier: what is in the files of those two.
        shared: how many stretches the last save shared.
    """

    kept = frozenset([TARGET, *EARLIER.values()])
    absorbed = {**ABSORBED, **SHARED}
    system = SharingSystem
    is_in_order = False  # threads write while blocks are shared

    def __init__(self, directory: Path, *, past_the_cache: bool = True, behind: bool = False) -> None:
        self.earlier: dict[str, bytes] = {}
        self.shared = 0
        super().__init__(
            directory,
            past_the_cache=past_the_cache,
            behind=behind,
            share_unchanged=True,
            load_filename=TARGET,
        )

    def state(self, value: float) -> dict[str, torch.Tensor]:
        return {"frozen": torch.arange(float(BLOCKS)), **super().state(value)}

    def put_in(self, patch: pytest.MonkeyPatch, system: System) -> None:
        super().put_in(patch, system)
        self._clones = Clones().put_in(patch)
        patch.setattr(digests, "LEAST_BYTES", 4096)
        for module in (cloning, looking, past):
            patch.setattr(module, "os", system.stand_in(module, os))
        real = cloning.clone_range
        patch.setattr(cloning, "clone_range", functools.partial(system.call, cloning, "clone", real))

        def of(*args, real=sharing.sharing_of):
            system.stage = "look"
            return real(*args)

        patch.setattr(sharing, "sharing_of", of)

    def _save(self, value: float, system: System, checkpointer: DefaultCheckpointer | None = None) -> System:
        if checkpointer is None:
            checkpointer = self._last = DefaultCheckpointer(self._arguments)
            checkpointer.run_id = "one"  # always: a directory with files of several gets a note of them
            with pytest.MonkeyPatch.context() as patch:
                self.put_in(patch, self.system(Fault()))
                for index in EARLIER:
                    checkpointer.save(Checkpoint(self.state(0.0), {}, {}), index)
                    checkpointer.wait()
            self._clones.forget()
            self.earlier = self._earlier()
        try:
            super()._save(value, system, checkpointer)
        finally:
            self.shared = len(self._clones.shared) - 1  # the trial
            self._clones.forget()
        return system

    def _faults(self, fault: Fault) -> Iterator[str]:
        yield from super()._faults(fault)
        if self._earlier() != self.earlier:
            yield "an earlier file is another"

    def _earlier(self) -> dict[str, bytes]:
        return {name: (self.directory / name).read_bytes() for name in EARLIER.values()}
