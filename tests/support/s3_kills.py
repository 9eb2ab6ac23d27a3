"""Kills what saves to an object store again and again and prints, as JSON, what each kill left behind.

A process of its own, so that torch is imported once and no test has started its threads before the forks:
`python s3_kills.py URL KILLS MEGABYTES SEED`.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import select
import signal
import sys
import time
from typing import Any

import torch

import marlin_ckpt
from marlin_ckpt import CheckpointDirectory, MarlinError
from marlin_ckpt.directory import lease
from marlin_ckpt.directory.remote.lease import LEASE
from marlin_ckpt.remote import RemoteArguments
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.s3.store import S3Store
from marlin_ckpt.storage.target import whole
from tests.support import s3_servers
from tests.support.async_child import PATIENCE_S
from tests.support.saving_loop import REPORT, next_report

FOREIGN = (
    "/notes.bin",
    "/deeper/model_1.pt",
    "x/model_1.pt",
)  # after the prefix, of others


class Kills:
    """Savers that are killed one after the other, each of which goes on from what is there."""

    def __init__(self, url: str, elements: int, seed: int) -> None:
        self.url, self.elements = url, elements
        self.rng = random.Random(seed)
        self.found: dict[str, Any] = {"kills": 0, "orphans": 0}
        self.found |= {what: [] for what in ("broken", "lost", "left")}
        self.next, self.period_s = 0, 0.5
        self.orphans: set[str] = set()

    def start(self, *, saves: int | None = None) -> tuple[int, int]:
        """Forks a saver that reports each number once `save` returned."""
        reports, report = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                weight = torch.empty(self.elements)
                with lease.held(self.url), CheckpointDirectory(self.url) as directory:
                    for number in itertools.islice(itertools.count(self.next), saves):
                        directory.save({"weight": weight.fill_(number), "number": number}, number)
                        os.write(report, REPORT.pack(number))
                code = 0
            finally:
                os._exit(code)
        os.close(report)
        return pid, reports

    def kill_once(self) -> None:
        """Kills a saver at a random moment after its first save."""
        pid, reports = self.start()
        reported = [next_report(reports, PATIENCE_S)]
        began = time.monotonic()
        with paths.open_remote(self.url) as store:
            if stale := self.orphans & set(store.unfinished()):
                self.found["left"].append(sorted(stale))
        until = began + self.rng.uniform(0, 2 * self.period_s)
        while (number := next_report(reports, until - time.monotonic())) is not None:
            reported.append(number)
            self.period_s = (time.monotonic() - began) / (len(reported) - 1)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while select.select([reports], [], [], 0)[0] and (data := os.read(reports, REPORT.size)):
            reported.append(REPORT.unpack(data)[0])
        os.close(reports)
        self.found["kills"] += 1
        with paths.open_remote(self.url) as store:
            self.look(store, reported)

    def look(self, store: S3Store, reported: list[int]) -> None:
        """Looks at what a kill left, and lets the lease of the killed one expire."""
        there = sorted(int(name.removeprefix("model_").removesuffix(".pt")) for name in store.list().objects)
        before = {self.next - 1} if self.next else set()
        if missing := {*before, *reported} - set(there):
            self.found["lost"].append(sorted(missing))
        for number in there[-2:]:
            if fault := self.fault_of(number):
                self.found["broken"].append([number, fault])
        for number in there[:-1]:
            name = f"model_{number}.pt"
            store.remove(name, store.head(name).identity)
        self.next = max(there) + 1
        self.orphans = set(store.unfinished())
        self.found["orphans"] += len(self.orphans)
        with store.open(LEASE) as source:
            held = json.loads(source.read(0, source.size_bytes))
        expired = json.dumps({**held, "expires": 1.0}).encode()
        store.publish(LEASE, len(expired), whole(expired), replaces=(source.etag,))

    def fault_of(self, number: int) -> str:
        try:
            loaded = marlin_ckpt.load(f"{self.url}/model_{number}.pt")
        except MarlinError as error:
            return str(error)
        low, high = torch.aminmax(loaded["weight"])
        found = (loaded["number"], low.item(), high.item(), loaded["weight"].numel())
        return "" if found == (number, number, number, self.elements) else f"holds {found}"


def main(url: str, kills: int, elements: int, seed: int) -> dict[str, Any]:
    paths.use(url, RemoteArguments(part_size="5MiB"))
    trial = Kills(url, elements, seed)
    with paths.open_remote(url) as store:
        control, bucket, prefix = store._client.control, store._bucket, store._prefix.removesuffix("/")
    for rest in FOREIGN:
        control.create_multipart_upload(Bucket=bucket, Key=prefix + rest)
    for _ in range(kills):
        trial.kill_once()
    pid, _ = trial.start(saves=1)
    trial.found["last"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    pages = control.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    uploads = [one["Key"].removeprefix(prefix) for page in pages for one in page.get("Uploads", ())]
    trial.found["uploads"] = sorted(uploads)
    return trial.found


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    s3_servers.read_models_once()
    kills, megabytes, seed = map(int, sys.argv[2:])
    sys.stdout.write(json.dumps(main(sys.argv[1], kills, megabytes * 250_000, seed)))
