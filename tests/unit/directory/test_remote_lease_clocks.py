"""For how long a lease in an object store is relied on, and whether its holder is known to be dead."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import threading
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from types import SimpleNamespace

import pytest

from marlin_ckpt import DirectoryInUseError, StorageError, save
from marlin_ckpt.directory.leasing import processes
from marlin_ckpt.directory.remote import lease as remote
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.s3 import client
from marlin_ckpt.storage.s3.client import now_s
from marlin_ckpt.storage.target import whole
from tests.support.faulty_proxy import Fault, Request
from tests.support.s3_stores import opened, read, settings, write

pytestmark = pytest.mark.usefixtures("short_pauses")


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


@pytest.mark.parametrize("hours", [-7, 7])
def test_a_lease_ends_by_the_clock_of_the_store_however_wrong_the_one_here_is(s3: str, monkeypatch, hours):
    with paths.open_remote(s3) as store:
        store.list()

        def of_another(left_s: float) -> None:
            held = {"token": "another", "expires": store.now_s() + left_s}
            data, there = json.dumps(held).encode(), store.head(remote.LEASE)
            store.publish(remote.LEASE, len(data), whole(data), replaces=there and there.identity)

        wrong = SimpleNamespace(**vars(time) | {"time": lambda: time.time() + hours * 3600})
        monkeypatch.setattr(client, "time", wrong)
        monkeypatch.setattr(client, "_clients", {})
        of_another(30)
        with pytest.raises(DirectoryInUseError) as caught:
            remote.RemoteLock(s3, "run")
        assert caught.value.holder["left_s"] == pytest.approx(30, abs=10)
        of_another(-3)
        lock = remote.RemoteLock(s3, "run")
        assert remote.holder(s3)["expires"] == pytest.approx(store.now_s() + remote.TTL_S, abs=10)
        lock.drop()


def test_a_lease_is_renewed_every_quarter_of_its_time(s3: str, proxy, monkeypatch):
    paths.use(s3, settings(proxy.endpoint))
    waited, done = [], threading.Event()

    class Waits(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout)
            if len(waited) < 4:
                return False
            done.set()
            return True

    with monkeypatch.context() as patch:
        patch.setattr(remote, "threading", SimpleNamespace(**vars(threading) | {"Event": Waits}))
        patch.setattr(remote.RemoteLock, "_take", lambda lock, store, *, waits: lock._write(store, None))
        lock = remote.RemoteLock(s3, "run", ttl_s=40)
    assert done.wait(30)
    assert waited == [10, 10, 10, 10]
    assert proxy.kinds().count("PutObject") == 1 + 3
    lock.drop()


def sleeps(monkeypatch: pytest.MonkeyPatch, slept_s: float) -> None:
    """The machine has slept for so long, which no clock shows but the one that goes on meanwhile."""
    real = time.clock_gettime

    def clock(which: int) -> float:
        return real(which) + slept_s * (which == time.CLOCK_BOOTTIME)

    monkeypatch.setattr(time, "clock_gettime", clock)


def test_whoever_slept_asks_whether_the_lease_is_still_held_and_commits_nothing_without_an_answer(
    s3: str, proxy, monkeypatch
):
    paths.use(s3, settings(proxy.endpoint, give_up_after="0.1s"))
    lock = remote.RemoteLock(s3, "run")
    save({"v": 1}, f"{s3}/model_1.pt")
    proxy.reset()
    proxy.rule = lambda one: Fault.SLOW_DOWN if one.key.endswith("/lease.json") else None
    sleeps(monkeypatch, remote.TTL_S)
    with pytest.raises(StorageError):
        save({"v": 2}, f"{s3}/model_2.pt")
    assert "CompleteMultipartUpload" not in proxy.kinds()
    proxy.reset()
    save({"v": 2}, f"{s3}/model_2.pt")
    lock.drop()


def test_a_commit_is_not_tried_again_once_the_lease_has_run_out(s3: str, proxy, monkeypatch):
    paths.use(s3, settings(proxy.endpoint))
    lock = remote.RemoteLock(s3, "run")
    with paths.open_remote(s3) as store:

        def busy(request: Request) -> Fault | None:
            if request.kind != "CompleteMultipartUpload":
                return None
            with opened(s3, settings(proxy.endpoint).endpoint) as other:  # by whoever has taken it over
                there = other.head(remote.LEASE)
                if b"heir" not in read(other, remote.LEASE):
                    write(other, remote.LEASE, b'{"token": "heir"}', replaces=there.identity)
            sleeps(monkeypatch, remote.TTL_S)
            return Fault.SLOW_DOWN

        proxy.reset()
        proxy.rule = busy
        with pytest.raises(DirectoryInUseError, match="the lease was lost"):
            write(store, data=b"late")
        assert proxy.kinds().count("CompleteMultipartUpload") == 1
        proxy.reset()
        assert store.head("model_1.pt") is None
    lock.drop()
