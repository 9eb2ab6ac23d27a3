"""Runs a module in several processes with torchrun, on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.folders import REPOSITORY


def launch(module: str, directory: Path, *, ranks: int) -> None:
    """Runs `torchrun -m module directory`.

    Args:
        module: What has a `__main__` part.
        directory: Where it writes; made if need be.
        ranks: How many processes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run(
        [*command, "-m", module, str(directory)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
