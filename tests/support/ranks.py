"""Runs a function in several processes that are the ranks of one process group, forked from a warm one."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import warm
from tests.support.folders import REPOSITORY

PATIENCE_S = 120.0


class _Popen(warm.Popen):
    """A rank, forked from a process that has imported what ranks import, which takes seconds."""

    imports = (
        "torch.distributed.checkpoint.state_dict",
        "torch.distributed.fsdp",
        "torch.distributed.tensor.parallel",
        "marlin_ckpt.distributed.reader",
        "marlin_ckpt.distributed.writer",
        "marlin_ckpt.loading.sharded",
    )


class Ended(NamedTuple):
    """How a rank ended: its exit code, what it returned (as JSON), and what it wrote to stderr."""

    code: int
    result: Any
    errors: str


class Run:
    """Ranks under way. Each runs `function(**arguments)` of a module after `init_process_group`."""

    def __init__(self, world_size: int, function: str, /, **arguments: Any) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ranks-"))
        environment = {
            **os.environ, "PYTHONPATH": str(REPOSITORY), "WORLD_SIZE": str(world_size),
            "RANKS_STORE": str(self._folder / "store"), "RANKS_RESULTS": str(self._folder),
        }  # fmt: skip
        command = [sys.executable, "-m", "tests.support.ranks", function, json.dumps(arguments)]
        self.processes = []
        for rank in range(world_size):
            with open(self._folder / f"errors-{rank}", "wb") as errors:
                self.processes.append(
                    _Popen(
                        command, env={**environment, "RANK": str(rank)}, stdin=subprocess.DEVNULL,
                        stdout=errors, stderr=errors,
                    )
                )  # fmt: skip

    def ended(self, timeout_s: float = PATIENCE_S) -> list[Ended]:
        """Waits for all; kills what does not end in time, whose code is then -9."""
        try:
            for one in self.processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    one.wait(timeout_s)
        finally:
            for one in self.processes:
                if one.poll() is None:
                    one.kill()
                    one.wait(10)
        return [self._of(rank) for rank in range(len(self.processes))]

    def _of(self, rank: int) -> Ended:
        result = self._folder / f"result-{rank}"
        found = json.loads(result.read_text()) if result.exists() else None
        return Ended(self.processes[rank].returncode, found, (self._folder / f"errors-{rank}").read_text())


def run(world_size: int, function: str, /, timeout_s: float = PATIENCE_S, **arguments: Any) -> list[Any]:
    """Runs a function at each rank, `tests.support.some_module:function`; returns what each returned.

    Raises:
        AssertionError: a rank has failed; the message has what it wrote.
    """
    ended = Run(world_size, function, **arguments).ended(timeout_s)
    assert all(one.code == 0 for one in ended), "\n".join(
        f"rank {rank}, exit {one.code}:\n{one.errors}" for rank, one in enumerate(ended)
    )
    return [one.result for one in ended]


def main(function: str, arguments: str) -> None:
    """Is one rank."""
    import torch.distributed as dist
    from torch import set_num_threads

    set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", init_method=f"file://{os.environ['RANKS_STORE']}", rank=rank, world_size=size
    )
    module, _, name = function.partition(":")
    code = 0
    try:
        found = getattr(importlib.import_module(module), name)(**json.loads(arguments))
        (Path(os.environ["RANKS_RESULTS"]) / f"result-{rank}").write_text(json.dumps(found))
    except BaseException:  # noqa: BLE001 - of whatever kind
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    if code == 0:
        dist.barrier()  # a rank that destroys its group while others still use theirs aborts them
    os._exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
