"""Has torchrun start the processes of a proof that are ranks of one run, and merges what they report."""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from marlin_ckpt.training.proof.child import Job
from marlin_ckpt.training.proof.findings import Record, merged

_AT_ONCE = 1 << 16
_LOOK_S = 0.2
_BOTH = "3"  # stdout and stderr of each rank, as torchrun counts them
_OF_ANY = frozenset(("missed", "failed", "error"))  # what is reported of any rank


@dataclass
class Ranks:
    """The processes of one start.

    Attributes:
        job: what each is to do.
        count: how many there are.
        said: gets what torchrun prints, and after that what its ranks have printed.
        code: with which torchrun has ended.
        is_struck: whether one has reported that it kills itself.
    """

    job: Job
    count: int
    said: BinaryIO
    code: int = 0
    is_struck: bool = False
    _steps: dict[int, dict[int, Record]] = field(default_factory=lambda: defaultdict(dict))

    def records(self) -> Generator[Record]:
        """Starts them, and yields what they report: of a step once all have reported it, else of rank 0."""
        pipes = os.path.join(self.job.directory, ".reports-")
        job = replace(self.job, pipes=pipes)
        with contextlib.ExitStack() as stack:
            logs = stack.enter_context(tempfile.TemporaryDirectory(prefix=".said-", dir=self.job.directory))
            command = [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc-per-node", str(self.count), "--redirects", _BOTH, "--log-dir", logs),
                *("-m", "marlin_ckpt.training.proof.child", json.dumps(asdict(job))),
            ]
            selector = stack.enter_context(selectors.DefaultSelector())
            for rank in range(self.count):
                path = f"{pipes}{rank}"
                os.mkfifo(path)
                stack.callback(os.unlink, path)
                fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # so that it never ends, whoever comes and goes
                stack.callback(os.close, fd)
                selector.register(fd, selectors.EVENT_READ, (rank, bytearray()))
            process = subprocess.Popen(  # noqa: S603 - ourselves
                command, stdin=subprocess.DEVNULL, stdout=self.said, stderr=self.said
            )
            try:
                is_over = False
                while not is_over:
                    is_over = process.poll() is not None
                    yield from self._read(selector, 0 if is_over else _LOOK_S)
            finally:
                if process.poll() is None:
                    process.terminate()
                self.code = process.wait()
            for log in sorted(Path(logs).rglob("*.log")):
                self.said.write(log.read_bytes())

    def _read(self, selector: selectors.BaseSelector, limit_s: float) -> Iterator[Record]:
        while ready := selector.select(limit_s):
            for key, _ in ready:
                rank, waiting = key.data
                waiting += os.read(key.fd, _AT_ONCE)
                while b"\n" in waiting:
                    line, _, rest = bytes(waiting).partition(b"\n")
                    waiting[:] = rest
                    yield from self._merged(rank, json.loads(line))

    def _merged(self, rank: int, record: Record) -> Iterator[Record]:
        if "kill" in record:
            self.is_struck = True
        elif "step" in record:
            parts = self._steps[record["step"]]
            parts[rank] = record
            if len(parts) == self.count:
                yield merged([parts[one] for one in range(self.count)])
        elif rank == 0 or not _OF_ANY.isdisjoint(record):
            yield record
