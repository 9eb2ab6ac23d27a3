"""For how long a lease in an object store is relied on, and whether its holder is known to be dead."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import threading
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from marlin_ckpt.directory.leasing import processes
from marlin_ckpt.directory.remote import lease as remote
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.s3.client import now_s


def test_an_answer_that_comes_late_does_not_set_the_clock_back(s3: str):
    with paths.open_remote(s3) as store:
        store.list()
        client, known = store._client, (store.now_s() - now_s(), store.doubt_s)
        assert 1 <= known[1] < 10
        client._heard(
            {"date": format_datetime(datetime.fromtimestamp(store.now_s() - 30, UTC))}, now_s() - 30
        )
        assert (store.now_s() - now_s(), store.doubt_s) == pytest.approx(known, abs=1e-3)


def test_a_lease_in_a_store_that_tells_no_time_is_renewed_before_each_commit(s3: str, monkeypatch):
    lock = remote.RemoteLock(s3, "run")
    monkeypatch.setattr(remote.S3Store, "doubt_s", math.inf)
    lock._sure_until_s = 0
    seen = []
    for _ in range(3):
        lock.check()
        seen.append(lock._etag)
    assert len({*seen}) == 3
    lock.drop()


def test_a_renewal_does_not_wait_for_data_that_takes_all_connections(s3: str):
    lock = remote.RemoteLock(s3, "run")
    with paths.open_remote(s3) as store, contextlib.ExitStack() as stack:
        for _ in range(store._client.settings.parallel):
            stack.enter_context(store._client.turn)
        lock._sure_until_s = 0
        renewing = threading.Thread(target=lock.check, daemon=True)
        renewing.start()
        renewing.join(30)
        assert not renewing.is_alive()
    lock.drop()


def test_a_process_is_called_dead_only_where_its_number_means_the_same():
    with subprocess.Popen(["true"]) as ended:
        pass
    here = processes.surroundings()
    assert processes.has_died({**here, "pid": ended.pid})
    assert not processes.has_died({**here, "pid": os.getpid()})
    assert not processes.has_died({**here, "pid": ended.pid, "boot": "another machine's"})
    assert not processes.has_died({**here, "pid": ended.pid, "namespace": 1})
    for pid in (0, -1, None, True, 1 << 80):
        assert not processes.has_died({**here, "pid": pid})
    assert not processes.has_died({"pid": ended.pid})
