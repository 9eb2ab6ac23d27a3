"""Runs an example of many ranks, killed at a step or to its end."""

from __future__ import annotations

import importlib.util
import os
import signal
from typing import Any
from unittest import mock

import torch.distributed as dist

from tests.support.folders import REPOSITORY


def fsdp2(directory: str, steps: int, kill_at: int) -> list[str]:
    """Runs `with_fsdp2.py` in the process group that there is; what this rank prints."""
    found = importlib.util.spec_from_file_location("with_fsdp2", REPOSITORY / "examples" / "with_fsdp2.py")
    assert found is not None
    assert found.loader is not None
    example: Any = importlib.util.module_from_spec(found)
    found.loader.exec_module(example)
    said: list[str] = []

    def say(text: str, **_: Any) -> None:
        said.append(text)
        if text.startswith(f"step {kill_at} "):
            os.kill(os.getpid(), signal.SIGKILL)

    example.STEPS, example.print = steps, say
    with (
        mock.patch.object(dist, "init_process_group"),
        mock.patch.object(dist, "destroy_process_group"),
    ):
        example.main(str(REPOSITORY / "LICENSE"), directory)
    return said
