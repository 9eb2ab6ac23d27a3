"""One run at a time saves to an object store: also if it is stopped, forked, or loses answers."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import subprocess
import sys

import pytest

from marlin_ckpt import DirectoryInUseError, StorageError, load, save
from marlin_ckpt.directory import lease
from marlin_ckpt.directory.remote import lease as remote
from marlin_ckpt.directory.remote import sharing
from marlin_ckpt.remote import RemoteArguments
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.s3 import retrying
from marlin_ckpt.storage.s3.uploading.parts import Upload
from tests.support import warm
from tests.support.faulty_proxy import Fault, faulty_proxy, once

# A process that holds the lease of a directory, for as long as a shorter time as these tests wait.
_HOLDS = """
import os, signal, sys
from marlin_ckpt import MarlinError, save
from marlin_ckpt.directory import lease
from marlin_ckpt.directory.remote import lease as remote
from marlin_ckpt.storage.s3.uploading.parts import Upload
url, how, remote.TTL_S = sys.argv[1], sys.argv[2], float(sys.argv[3])
remote._RENEWALS = 20  # so that others need not wait long for one
commit = Upload.commit
def stopped(upload, condition):
    if upload._key.path.endswith("model_1.pt"):  # and no renewal of the lease
        Upload.commit = commit
        os.kill(os.getpid(), signal.SIGSTOP)
    return commit(upload, condition)
with lease.held(url, "first"):
    print("held", flush=True)
    sys.stdin.readline()
    if how == "stops":
        Upload.commit = stopped
    try:
        save({"from": "first"}, f"{url}/model_1.pt")
    except MarlinError as error:
        print(error, flush=True)
    else:
        print("saved", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "_FIRST_S", 0.01)
    monkeypatch.setattr(remote, "_POLL_S", 0.1)


def holder(url: str, how: str = "saves", ttl_s: float = 60) -> subprocess.Popen:
    """Another process that holds the lease until its standard input ends."""
    command = [sys.executable, "-c", _HOLDS, url, how, str(ttl_s)]
    start = subprocess.Popen if how == "stops" else warm.Popen  # a parent alone sees that a child stops
    process = start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def go_on(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_second_process_is_refused_while_the_first_lives_and_may_at_once_when_it_is_dead(s3: str, caplog):
    with holder(s3, ttl_s=5) as first:
        for other in (lease.held(s3, "second"), lease.held_where_used([s3])):
            with pytest.raises(DirectoryInUseError) as caught, other:
                pytest.fail("two hold it")
            assert caught.value.exit_code == 5
            assert f"run first, process {first.pid} on" in str(caught.value)
            assert "if it has died, its lease ends in" in caught.value.hint
        assert "waiting to see whether it lives" in caplog.text
        go_on(first)
        assert first.stdout.readline() == "saved\n"
        assert lease.holder(s3)["pid"] == first.pid
        first.kill()
    assert lease.holder(s3) == {}
    caplog.clear()
    caplog.set_level(logging.INFO)
    with lease.held(s3, "second"):
        assert f"from run first, process {first.pid} on" in caplog.text
        assert "waiting" not in caplog.text
        assert lease.holder(s3)["run_id"] == "second"
    assert load(f"{s3}/model_1.pt") == {"from": "first"}


def test_a_run_that_was_stopped_before_its_commit_commits_nothing_after_another_has_taken_over(s3: str):
    with holder(s3, "stops", ttl_s=2) as first:
        go_on(first)
        _, status = os.waitpid(first.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        with lease.held(s3, "second"):  # waits until the lease has ended
            first.send_signal(signal.SIGCONT)
            assert "another run has taken the directory over" in first.stdout.readline()
            assert not paths.exists(f"{s3}/model_1.pt")
            save({"from": "second"}, f"{s3}/model_1.pt")
        first.stdin.close()
    assert load(f"{s3}/model_1.pt") == {"from": "second"}


@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.SLOW_DOWN])
def test_a_renewal_survives_the_loss_of_a_request_and_of_its_answer(s3: str, s3_endpoint: str, fault: Fault):
    with faulty_proxy(s3_endpoint) as proxy:
        paths.use(s3, RemoteArguments(endpoint=proxy.endpoint))
        lock = remote.RemoteLock(s3, "run", ttl_s=3000)
        for kind in ("PutObject", "HeadObject"):
            proxy.seen.clear()
            proxy.rule = once(kind, fault)
            lock._sure_until_s = 0
            lock.check()
        proxy.rule = lambda _: None
        lock.drop()


def test_a_renewal_that_was_made_though_its_answer_never_came_is_known_as_ones_own(s3: str):
    lock = remote.RemoteLock(s3, "run", ttl_s=3000)
    with paths.open_remote(s3) as store:
        store.guard = None
        etag = lock._publish(store, lock._etag, store.now_s() + 3000)
    assert etag != lock._etag
    lock._sure_until_s = 0
    lock.check()
    lock.drop()
    remote.RemoteLock(s3, "next").drop()


def test_a_lease_that_was_removed_with_its_directory_is_written_again(s3: str):
    lock = remote.RemoteLock(s3, "run", ttl_s=3000)
    with paths.open_remote(s3) as store:
        store.guard = None
        store.remove(remote.LEASE, store.head(remote.LEASE).identity)
    lock._sure_until_s = 0
    lock.check()
    with pytest.raises(DirectoryInUseError):
        remote.RemoteLock(s3, "other")
    lock.drop()


def test_a_lease_that_was_lost_is_not_taken_for_held_by_what_another_has_written_meanwhile(
    s3: str, monkeypatch: pytest.MonkeyPatch
):
    lock = remote.RemoteLock(s3, "zombie", ttl_s=3000)
    found = {}
    commit = Upload.commit

    def stopped(upload: Upload, condition: dict[str, str]) -> str:
        monkeypatch.setattr(Upload, "commit", commit)
        etag = upload.commit(condition)
        with paths.open_remote(s3) as store:  # it is stopped here; the lease ends, and another takes it
            store.guard = None
            heir = json.dumps({"expires": store.now_s() + 3000, "token": "another"}).encode()
            before = store.head(remote.LEASE).identity
            item = store.publish(remote.LEASE, len(heir), lambda to: to.put(heir), replaces=before)
            found.update(etag=item.identity[0])
        return etag

    monkeypatch.setattr(Upload, "commit", stopped)
    lock._sure_until_s = 0
    lock.check()
    assert lock._etag != found["etag"]
    lock._sure_until_s = 0
    with pytest.raises(DirectoryInUseError, match="the lease was lost"):
        lock.check()
    with pytest.raises(DirectoryInUseError, match="the lease was lost"):
        save({}, f"{s3}/model_2.pt")
    lock.drop()
    assert lease.holder(s3)["token"] == "another"


def test_nothing_is_saved_or_removed_after_the_lease_was_let_go(s3: str):
    save({"a": 1}, f"{s3}/model_1.pt")
    lock = remote.RemoteLock(s3, "run", ttl_s=3000)
    with paths.open_remote(s3) as store:
        item = store.head("model_1.pt")
        lock.drop()
        for change in (
            lambda: store.publish("model_2.pt", 1, lambda to: to.put(b"x")),
            lambda: store.remove(item.name, item.identity),
            lambda: store.move(item.name, "model_3.pt", item.identity),
        ):
            with pytest.raises(DirectoryInUseError, match="let go"):
                change()
        assert store.list().objects == ("model_1.pt",)
        assert store.unfinished() == ()


def test_a_store_that_ignores_conditions_is_refused_at_every_start_and_taken_where_that_is_allowed(
    s3: str, monkeypatch: pytest.MonkeyPatch
):
    commit = Upload.commit
    for ignored in ("IfNoneMatch", "IfMatch"):

        def ignores(upload: Upload, condition: dict[str, str], ignored: str = ignored) -> str:
            return commit(upload, {name: value for name, value in condition.items() if name != ignored})

        monkeypatch.setattr(Upload, "commit", ignores)
        for _ in range(2):  # also where there has been a lease before
            with pytest.raises(StorageError, match="the store ignores conditions"), lease.held(s3, "run"):
                pytest.fail("it is held")
        assert lease.holder(s3) == {}
    paths.use(s3, RemoteArguments(conditional="allow-without"))
    with lease.held(s3, "run"):
        assert lease.holder(s3)["run_id"] == "run"


def test_within_one_process_one_run_holds_it_as_often_as_it_likes_by_any_spelling(s3: str):
    with lease.held(s3):
        with lease.held(f"{s3}/", "run"):
            assert lease.holder(s3)["run_id"] == "run"  # as soon as it is known
            with pytest.raises(DirectoryInUseError, match="run run"), lease.held(s3, "other"):
                pytest.fail("two runs hold it")
            with pytest.raises(DirectoryInUseError), lease.held_where_used([s3]):
                pytest.fail("what removes shares it")
        assert lease.holder(s3)
    assert lease.holder(s3) == {}


def test_a_command_that_removes_ends_no_upload_and_a_run_ends_all_that_are_not_its_own(s3: str):
    with lease.held(s3, "run"):
        pass
    with paths.open_remote(s3) as store:

        def fill(to) -> None:
            to.put(b"x" * (20 << 20))
            with lease.held_where_used([s3]):
                assert len(store.unfinished()) == 1

        store.publish("model_1.pt", 20 << 20, fill)
        assert store.head("model_1.pt").size_bytes == 20 << 20


def test_a_forked_child_does_not_share_its_parents_lease(s3: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "TTL_S", 4.0)
    with lease.held(s3, "run"):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            said = []
            for act in (lambda: save({}, f"{s3}/model_1.pt"), lambda: sharing.take(s3, "run", makes=True)):
                try:
                    act()
                    said.append("did it")
                except DirectoryInUseError as error:
                    said.append(error.what)
                except BaseException as error:  # noqa: BLE001 - told to the parent
                    said.append(repr(error))
            os.write(writing, pickle.dumps(said))
            os._exit(0)
        os.close(writing)
        with open(reading, "rb") as file:
            first, second = pickle.load(file)
        os.waitpid(child, 0)
        assert "forked" in first
        assert "saves there" in second
        save({}, f"{s3}/model_1.pt")
