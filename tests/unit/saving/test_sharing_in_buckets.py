"""Checkpoints in a bucket of which the store copies what has not changed are the ones that they would be."""

from __future__ import annotations

import sys

import pytest
import torch

from marlin_ckpt import CheckpointDirectory, Saver, Status, StorageError, load, verify
from marlin_ckpt.formats import manifest
from marlin_ckpt.formats.zip.reader import read_container
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.paths import open_source
from tests.support.s3_stores import MIB, settings

FROZEN = torch.randn(5 * MIB)  # 20 MiB
LEAST = 5 * MIB  # of a part


@pytest.fixture
def url(s3, proxy) -> str:
    """The URL of an empty prefix that is reached through the proxy."""
    paths.use(s3, settings(proxy.endpoint))
    return s3


def states(count: int) -> list[dict]:
    """What a run saves of which one tensor is trained, and a list grows."""
    return [
        {"step": step, "losses": [0.5] * step, "frozen": FROZEN, "trained": torch.full((MIB,), float(step))}
        for step in range(count)
    ]


def sent_bytes(proxy) -> int:
    """How much was sent since this was asked last."""
    found = sum(int(one.headers.get("content-length", 0)) for one in proxy.seen if one.method == "PUT")
    proxy.reset()
    return found


def data_of(path: str) -> bytes:
    """All of a file up to what says when and by whom it was written."""
    with open_source(path) as source:
        return source.read(0, read_container(source).by_label[manifest.NAME].header_offset)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_file_is_to_the_byte_what_it_would_be_and_what_has_changed_is_sent_alone(
    url, proxy, tmp_path, asynchronous
):
    sent = []
    with (
        CheckpointDirectory(url, keep=1, share_unchanged=True, asynchronous=asynchronous) as there,
        CheckpointDirectory(tmp_path) as here,
    ):
        for index, state in enumerate(states(3)):
            there.save(state, index)
            there.wait()
            sent.append(sent_bytes(proxy))
            here.save(state, index)
        assert data_of(f"{url}/model_2.pt") == data_of(f"{tmp_path}/model_2.pt")
        assert verify(f"{url}/model_2.pt").status is Status.INTACT
        assert torch.equal(load(f"{url}/model_2.pt")["frozen"], FROZEN)
    assert sent[0] > 24 * MIB
    assert max(sent[1:]) < 4 * MIB + LEAST + 2 * MIB


def test_each_tenth_save_is_sent_whole(url, proxy):
    sent = []
    with CheckpointDirectory(url, keep=1, share_unchanged=True) as there:
        there._saves.lineage.saves = 7
        for index, state in enumerate(states(4)):
            there.save(state, index)
            sent.append(sent_bytes(proxy) > 24 * MIB)
    assert sent == [True, False, True, False]  # the 8th to the 11th


def test_a_saver_that_replaces_its_file_shares_with_the_one_that_it_replaces(url, proxy):
    with Saver(share_unchanged=True) as saver:
        for state in states(3):
            saver.save(state, f"{url}/last.pt")
            saver.wait()
    assert proxy.kinds().count("UploadPartCopy") == 2
    assert load(f"{url}/last.pt")["step"] == 2


def test_a_small_state_takes_the_requests_that_it_takes_anyway(url, proxy):
    kinds = []
    for number, shares in enumerate([False, True]):
        with CheckpointDirectory(f"{url}/{number}", keep=2, share_unchanged=shares) as there:
            for index in range(4):
                there.save({"w": torch.ones(300_000)}, index)
        kinds.append(sorted(proxy.kinds()))
        proxy.reset()
    assert kinds[0] == kinds[1]


def test_without_xxhash_a_save_says_what_to_install(url, monkeypatch):
    monkeypatch.setitem(sys.modules, "xxhash", None)
    with CheckpointDirectory(url, share_unchanged=True) as there, pytest.raises(StorageError) as caught:
        there.save({"w": torch.ones(3)}, 0)
    assert "marlin-ckpt[share]" in caught.value.hint
