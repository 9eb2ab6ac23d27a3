"""What networks and servers do to the requests of a save and of a load: all of them, one after the other."""

from __future__ import annotations

import contextlib

import pytest
import torch

import marlin_ckpt
from marlin_ckpt import MarlinError, Saver, StorageError
from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.formats.torch.writer import write_file
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.s3 import uploads
from tests.support import s3_servers
from tests.support.faulty_proxy import Canned, Fault, always, once
from tests.support.run_directories import manifest
from tests.support.s3_stores import (
    DATA,
    PASSING,
    opened,
    read,
    settings,
    with_each_request_failing_once,
    write,
)

pytestmark = pytest.mark.usefixtures("short_pauses")

STATE = {"weight": torch.arange(300_000.0), "bias": torch.arange(7.0), "epoch": 3}


@pytest.fixture
def store(store):
    """An empty prefix, reached through the proxy, whose lease is held."""
    store.guard = lambda: None
    return store


@pytest.fixture
def url(s3, proxy) -> str:
    """The URL of a checkpoint that is reached through the proxy."""
    paths.use(s3, settings(proxy.endpoint))
    marlin_ckpt.save(STATE, f"{s3}/model_1.pt")
    return f"{s3}/model_1.pt"


def is_right(loaded) -> bool:
    return loaded["epoch"] == 3 and all(torch.equal(loaded[name], STATE[name]) for name in ("weight", "bias"))


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("data", [b"short", DATA], ids=["short", "in parts"])
def test_a_save_under_a_lease_survives_whatever_happens_to_one_of_its_requests(
    store, proxy, fault, data, cases
):
    if data is DATA and fault not in PASSING[: cases(2, len(PASSING))]:
        pytest.skip("all faults of long saves are tried in the campaign")
    kinds = with_each_request_failing_once(
        proxy, fault, lambda number: write(store, f"model_{number}.pt", data)
    )
    assert "CompleteMultipartUpload" in kinds
    names = store.list().objects
    assert len(names) == len(kinds) + 1
    assert all(read(store, name) == data for name in names)
    # Of an upload whose number was lost nobody knows; it is empty, and whoever takes the lease next ends it.
    lost = store.unfinished()
    assert len(lost) == (fault in (Fault.LOST_ANSWER, Fault.CUT_DOWN))
    for name in lost:
        store.remove(name, ())


@pytest.mark.parametrize("kind", ["PutObject", "CompleteMultipartUpload"])
def test_a_commit_is_tried_again_where_the_store_says_that_it_met_another_request(store, proxy, kind):
    if kind == "PutObject":
        store.guard = None
    proxy.rule = once(kind, Fault.CONFLICT)
    write(store, data=b"short")
    assert proxy.kinds().count(kind) == 2
    assert read(store) == b"short"


def ended_by_another_request(store, times: int = 1):
    """The commit of an upload is answered 409, after which there is no such upload, as AWS has it."""

    def rule(request):
        if request.kind != "CompleteMultipartUpload" or request.number >= times:
            return None
        for name in store.orphans():
            key, _, upload_id = name.partition(uploads.MARK)
            store._client.control.abort_multipart_upload(
                Bucket=store._bucket, Key=store._prefix + key, UploadId=upload_id
            )
        return Fault.CONFLICT

    return rule


@pytest.mark.parametrize("data", [b"short", DATA], ids=["short", "in parts"])
def test_an_upload_that_has_ended_as_it_met_another_request_is_made_anew_under_the_lease(store, proxy, data):
    looks = []
    store.guard = lambda: looks.append(proxy.kinds().count("CreateMultipartUpload"))
    proxy.rule = ended_by_another_request(store)
    write(store, data=data)
    assert read(store) == data
    assert looks == [1, 1, 2]  # at the lease before each try, and once more after the new upload has begun
    assert store.unfinished() == ()


def test_an_upload_that_meets_other_requests_again_and_again_is_given_up(store, proxy):
    proxy.rule = always("CompleteMultipartUpload", Fault.CONFLICT)
    with pytest.raises(StorageError, match="other requests to the same object have ended each upload"):
        write(store)
    proxy.reset()
    assert store.head("model_1.pt") is None
    assert store.unfinished() == ()


@pytest.mark.parametrize("is_behind", [False, True])
def test_a_state_is_saved_anew_from_where_it_is_or_from_its_image(s3, proxy, is_behind):
    paths.use(s3, settings(proxy.endpoint))
    state = {"weight": torch.arange(1_500_000.0), "epoch": 3}
    with opened(s3, proxy.endpoint) as store:
        proxy.rule = ended_by_another_request(store)
    if is_behind:
        with Saver() as saver:
            saver.save(state, f"{s3}/model_1.pt")
    else:
        marlin_ckpt.save(state, f"{s3}/model_1.pt")
    assert proxy.kinds().count("CreateMultipartUpload") == 2
    loaded = marlin_ckpt.load(f"{s3}/model_1.pt")
    assert torch.equal(loaded["weight"], state["weight"])


def test_a_state_that_other_ranks_have_sent_once_is_not_asked_for_again(s3, proxy):
    paths.use(s3, settings(proxy.endpoint))
    asked = []

    def data_of(storage):
        asked.append(storage)
        return memory(storage.data_ptr(), storage.nbytes())

    with opened(s3, proxy.endpoint) as store:
        proxy.rule = ended_by_another_request(store)
        state = {"weight": torch.arange(1_500_000.0)}
        with pytest.raises(StorageError, match="what was gathered for it is gone"):
            write_file(f"{s3}/model_1.pt", state, manifest(1, 0), data_of=data_of)
        assert len(asked) == 1
        assert store.head("model_1.pt") is None
        assert store.unfinished() == ()


def test_an_object_that_went_while_its_successor_was_written_is_said_to_be_another(store, proxy):
    store.guard = None
    item = write(store, data=b"old")
    proxy.rule = always("PutObject", Canned.error(404, "NoSuchKey"))
    with pytest.raises(StorageError, match="another object has taken its place"):
        write(store, data=b"new", replaces=item.identity)


@pytest.mark.parametrize("fault", [one for one in PASSING if one is not Fault.CUT_UP])
def test_a_load_survives_whatever_happens_to_one_of_its_requests(url, proxy, fault, cases):
    loaded = []
    kinds = with_each_request_failing_once(
        proxy, fault, lambda _: loaded.append(marlin_ckpt.load(url)), one_in=cases(3, 1)
    )
    assert kinds.count("GetObject") > 1
    assert len(loaded) > 1
    assert all(is_right(one) for one in loaded)


def test_no_bit_that_flips_on_the_way_down_is_loaded(url, proxy):
    refused = []

    def load(_: int) -> None:
        try:
            assert is_right(marlin_ckpt.load(url))
        except MarlinError as error:
            refused.append(error)

    with_each_request_failing_once(proxy, Fault.FLIPPED_DOWN, load)
    assert refused


def test_a_load_in_which_a_third_of_the_answers_is_lost_and_a_third_is_cut_ends_right(url, proxy):
    faults = iter([Fault.LOST_ANSWER, Fault.CUT_DOWN, None] * 100)
    proxy.rule = lambda _: next(faults)
    assert is_right(marlin_ckpt.load(url))


def test_an_upload_that_the_store_gives_no_time_says_so_whatever_becomes_of_its_end(s3, proxy):
    with opened(s3, proxy.endpoint, give_up_after="0.2s") as hasty:
        hasty.guard = lambda: None
        proxy.rule = lambda one: Fault.SLOW_DOWN if "Upload" in one.kind and one.number else None
        with pytest.raises(MarlinError, match=r"cannot write: .*(SlowDown|503)"):
            write(hasty)
    proxy.reset()


def test_two_that_are_reached_differently_in_one_process_each_keep_their_settings(s3, proxy):
    with opened(s3, proxy.endpoint) as one, opened(s3, proxy.endpoint, conditional="allow-without") as other:
        write(one, "model_1.pt", b"one")
        proxy.reset()
        assert one._client.settings.conditional == "require"
        assert other._client.settings.conditional == "allow-without"


def test_a_save_ends_well_or_with_an_error_where_the_server_restarts_in_the_middle(tmp_path, s3, cases):
    if not cases(0, 1):
        pytest.skip("takes a server of its own, which starts twice: in the campaign alone")
    port = s3_servers.free_port()
    endpoint = f"http://127.0.0.1:{port}"
    server = s3_servers.started(tmp_path, port)

    def fill(target) -> None:
        nonlocal server
        target.put(DATA)
        s3_servers.end(server)
        server = s3_servers.started(tmp_path, port)
        target.put(DATA)

    try:
        s3_servers.make_bucket(endpoint)
        with opened(s3, endpoint, give_up_after="1m") as store:
            write(store, "model_0.pt")
            with contextlib.suppress(StorageError):
                store.publish("model_1.pt", 2 * len(DATA), fill)
            assert "model_1.pt" not in store.list().objects or read(store, "model_1.pt") == DATA + DATA
            assert read(store, "model_0.pt") == DATA
            write(store, "model_2.pt")
            assert read(store, "model_2.pt") == DATA
    finally:
        s3_servers.end(server)
