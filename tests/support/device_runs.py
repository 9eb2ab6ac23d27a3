"""Runs on a device, for tests that also run on the CPU: `pytest tests/device --device cpu`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import torch

from tests.support.async_runs import Run
from tests.support.folders import REPOSITORY

_CYCLES = 200_000_000  # a tenth of a second


class DeviceRun(Run):
    """A module with buffers and AdamW, of 50 MB on a CUDA device."""

    def __init__(self, device: torch.device, **options: Any) -> None:
        torch.manual_seed(0)
        self.device, self.width = device, 2048 if device.type == "cuda" else 64
        self.module = torch.nn.Sequential(
            torch.nn.Linear(self.width, self.width), torch.nn.BatchNorm1d(self.width)
        ).to(device)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.1, **options)

    def forward(self) -> None:
        batch = torch.randn(32, self.width, device=self.device)
        self.module(batch).square().sum().backward()


def keep_busy(device: torch.device) -> None:
    """Has a device work on its current stream for a while; the caller goes on."""
    if device.type == "cuda":
        torch.cuda._sleep(_CYCLES)


def large(device: torch.device, value: float = 0.0) -> torch.nn.Parameter:
    """One that a device needs some time to copy: 256 MB."""
    count = 1 << 26 if device.type == "cuda" else 1 << 16
    return torch.nn.Parameter(torch.full((count,), value, device=device))


def without_devices(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process that sees no CUDA device."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path()}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def fresh(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": path()}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def path() -> str:
    """Where Python looks first in a process of its own: here, then where this one was told to."""
    others = [one for one in [os.environ.get("PYTHONPATH")] if one]
    return os.pathsep.join([str(REPOSITORY), *others])
