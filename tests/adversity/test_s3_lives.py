"""A directory in a store from its first save to its last removal, while requests fail all the time."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

import marlin_ckpt
from marlin_ckpt import CheckpointDirectory, MarlinError, Saver, StorageError
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory import lease
from marlin_ckpt.directory.remote import lease as remote
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.s3.store import S3Store
from marlin_ckpt.storage.target import whole
from tests.support.faulty_proxy import Fault, always, at_random
from tests.support.s3_stores import (
    opened,
    read,
    settings,
    with_each_request_failing_once,
    write,
)

pytestmark = pytest.mark.usefixtures("short_pauses")

LOSING = (Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.CUT_UP, Fault.CUT_DOWN, Fault.ERROR_IN_200)
UNLISTED = (Fault.SLOW_DOWN, Fault.SKEWED, Fault.CUT_DOWN, Fault.LOST_ANSWER)
STALLS = (Fault.STALLED, Fault.STALLED_ANSWER)


def state(index: int, elements: int = 1000) -> dict:
    return {"weight": torch.full((elements,), float(index)), "index": index}


def is_right(loaded, index: int) -> bool:
    return loaded["index"] == index and bool((loaded["weight"] == index).all())


def names(store: S3Store, folder: str = "") -> list[str]:
    return sorted(name for name in store.list(folder).objects if name.endswith(".pt"))


def expire(url: str) -> None:
    """Has the lease be one of a run on another machine that was not renewed."""
    with paths.open_remote(url) as store:
        store.guard = None
        held = {"boot": "another machine's", "run_id": "old", "pid": 1, "expires": store.now_s() - 1}
        data, found = json.dumps(held).encode(), store.head(remote.LEASE)
        store.publish(remote.LEASE, len(data), whole(data), replaces=found.identity)


def live(url: str, run_main, elements: int) -> None:
    """Saves, looks, removes, brings back, and takes over."""

    def ok(*arguments: str) -> dict:
        code, out, err = run_main(*arguments, "--json")
        assert code == 0, (arguments, out, err)
        return json.loads(out)

    with lease.held(url, "first"), CheckpointDirectory(url, run="first") as here:
        for index in range(3):
            here.save(state(index, elements), index, metrics={"loss": 1.0 - index})
    with Saver() as saver:
        saver.save(state(3, elements), f"{url}/model_3.pt")
    everything = [f"{url}/model_{index}.pt" for index in range(4)]
    assert ok("latest", url)["path"] == everything[3]
    assert [one["path"] for one in ok("list", url)["checkpoints"]] == everything
    assert {one["status"] for one in ok("verify", url)["files"]} == {"intact"}
    assert all(is_right(marlin_ckpt.load(path), index) for index, path in enumerate(everything))
    gone = ok("clean", url, "--keep-last", "2", "--to-trash", "--yes")["removed"]
    assert [one["path"] for one in gone] == everything[:1]  # the last one is of another run
    assert [one["path"] for one in ok("list", url)["checkpoints"]] == everything[1:]
    ok("clean", url, "--undo")
    assert all(is_right(marlin_ckpt.load(path), index) for index, path in enumerate(everything))
    expire(url)
    with lease.held(url, "second"), CheckpointDirectory(url, run="second") as here:
        here.save(state(4, elements), 4)
    ok("clean", url, "--keep-last", "1", "--yes")
    assert is_right(marlin_ckpt.load(f"{url}/model_4.pt"), 4)
    ok("log", url)


@pytest.fixture
def run_main(capsys: pytest.CaptureFixture[str]):
    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*arguments])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("faults", [(Fault.SLOW_DOWN,), LOSING], ids=["SlowDown", "lost"])
def test_a_whole_life_goes_well_though_three_of_ten_requests_fail(s3, proxy, run_main, faults, cases):
    if faults is LOSING and not cases(0, 1):
        pytest.skip("takes as long as the other: in the campaign alone")
    paths.use(s3, settings(proxy.endpoint, give_up_after="1m"))
    for seed, elements in itertools.product(range(cases(1, 10)), cases((1000,), (1000, 2_000_000))):
        url = f"{s3}/{seed}-{elements}"
        proxy.reset()
        proxy.rule = at_random(seed, 0.3, *faults)
        live(url, run_main, elements)
        proxy.reset()
        with lease.held(url), paths.open_remote(url) as store:
            assert names(store) == ["model_2.pt", "model_3.pt", "model_4.pt"]  # of each run the newest
            assert store.orphans() == ()


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_save_while_credentials_expire_again_and_again_is_whole_or_an_error(s3, proxy, share, cases):
    paths.use(s3, settings(proxy.endpoint))
    for seed in range(cases(1, 20)):
        url, said = f"{s3}/{seed}/model_1.pt", ""
        proxy.rule = at_random(seed, share, Fault.EXPIRED)
        try:
            marlin_ckpt.save(state(1), url)
        except MarlinError as error:
            said = f"{error}; {error.hint}"
        proxy.reset()
        assert "credentials have expired" in said if said else is_right(marlin_ckpt.load(url), 1), said


@pytest.mark.parametrize("fault", STALLS)
def test_a_connection_that_stays_silent_is_given_up_and_the_request_made_again(s3, proxy, fault, cases):
    timeout = cases("0.1s", "5s")
    with opened(s3, proxy.endpoint, timeout=timeout, give_up_after="2m") as store:
        store.guard = lambda: None

        def save_and_read(number: int) -> None:
            write(store, f"model_{number}.pt", b"short")
            assert read(store, f"model_{number}.pt") == b"short"

        kinds = with_each_request_failing_once(proxy, fault, save_and_read)
        assert names(store) == sorted(f"model_{number}.pt" for number in range(len(kinds) + 1))


@pytest.mark.parametrize("fault", UNLISTED)
def test_a_listing_that_fails_after_its_first_page_is_an_error_and_nothing_is_removed(
    s3, proxy, run_main, monkeypatch, fault, cases
):
    if fault not in UNLISTED[: cases(1, len(UNLISTED))]:
        pytest.skip("the other faults are tried in the campaign")
    paths.use(s3, settings(proxy.endpoint, give_up_after="0.1s"))
    with paths.open_remote(s3) as store:
        with lease.held(s3), CheckpointDirectory(s3) as here:
            for index in range(3):
                here.save(state(index), index)
        ask = store._client.control.list_objects_v2
        monkeypatch.setattr(store._client.control, "list_objects_v2", lambda **how: ask(**how, MaxKeys=2))
        for command in (["list"], ["latest"], ["log"], ["clean", "--yes"], ["clean", "--keep-last", "1"]):
            proxy.reset()
            proxy.rule = always("ListObjects", fault, number=1)
            code, out, err = run_main(command[0], s3, *command[1:], "--json")
            assert code == 1, (command, out, err)
            assert "no checkpoint" not in out + err
        with pytest.raises(StorageError):
            marlin_ckpt.get_latest_file(s3, "model", "pt")
        proxy.reset()
        assert names(store) == [f"model_{index}.pt" for index in range(3)]


def test_a_lease_is_not_taken_where_the_uploads_of_others_cannot_all_be_listed(s3, proxy, monkeypatch):
    paths.use(s3, settings(proxy.endpoint, give_up_after="0.1s"))
    with paths.open_remote(s3) as store:
        control = store._client.control
        for index in range(3):
            control.create_multipart_upload(Bucket=store._bucket, Key=f"{store._prefix}model_{index}.pt")
        ask = control.list_multipart_uploads
        monkeypatch.setattr(control, "list_multipart_uploads", lambda **how: ask(**how, MaxUploads=2))
        proxy.rule = always("ListMultipartUploads", Fault.SLOW_DOWN, number=1)
        with pytest.raises(StorageError, match="cannot list the uploads"), lease.held(s3):
            pytest.fail("it is held")
        proxy.reset()
        with lease.held(s3):
            assert store.unfinished() == ()
