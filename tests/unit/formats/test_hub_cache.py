"""The cache of the Hugging Face hub: its links are followed to its blobs alone, which their digests name."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from marlin_ckpt.directory import catalog
from marlin_ckpt.formats import verification
from marlin_ckpt.formats.layouts import hub
from marlin_ckpt.formats.verdicts import Status, Verdict
from marlin_ckpt.operations import one
from tests.support.foreign.hub import REVISION, make_cached, make_cached_shared
from tests.support.foreign.hugging_face import make_single

SHARD = "model-00002-of-00003.safetensors"
FETCH = f"hf download org/name --revision {REVISION}"


def deep(path: Path) -> Verdict:
    found = catalog.entry(path)
    assert found is not None
    return verification.verify(found, deep=True)


def sound(path: Path) -> str:
    """The reason for which a folder is unverifiable, and nothing worse."""
    found = one.verify(path)
    assert found.status is Status.UNVERIFIABLE, found
    return found.reason


def names(path: Path) -> set[str]:
    return {tensor.name for tensor in one.inspect(path).tensors}


def test_what_is_to_be_typed_runs_nothing_that_stands_in_the_name_of_a_folder():
    assert hub.fetching(f"/hub/models--org--name/snapshots/{REVISION}") == FETCH
    typed = hub.fetching("/hub/models--org--a b;id/snapshots/rev$(id)")
    assert shlex.split(typed) == ["hf", "download", "org/a b;id", "--revision", "rev$(id)"]
    assert "'rev$(id)'" in typed


@pytest.mark.parametrize("make", [make_cached, make_cached_shared])
def test_a_snapshot_of_the_hub_is_read_through_its_links(tmp_path, make):
    made = make(tmp_path)
    sound(made.path)
    assert names(made.path) == set(made.weights)


@pytest.mark.parametrize("make", [make_cached, make_cached_shared])
def test_a_blob_that_is_gone_is_fetched_by_a_command(tmp_path, make):
    made = make(tmp_path)
    (made.path / SHARD).resolve().unlink()
    found = one.verify(made.path)
    assert found.status is Status.INCOMPLETE
    assert found.reason == f"{SHARD} is a link that leads nowhere; `{FETCH}` fetches what is missing"


def test_the_store_that_repositories_share_counts_only_where_it_is_marked(tmp_path):
    made = make_cached_shared(tmp_path)
    (tmp_path / "blobs" / ".huggingface-shared-blobs").unlink()
    found = one.verify(made.path)
    assert found.status is Status.CORRUPT
    assert "a link that leads out of the folder" in found.reason


def test_a_link_of_a_snapshot_goes_to_the_shared_store_through_the_blobs_alone(tmp_path):
    made = make_cached_shared(tmp_path)
    target = (made.path / SHARD).resolve()
    (made.path / SHARD).unlink()
    (made.path / SHARD).symlink_to(target)
    assert "a link that leads out of the folder" in one.verify(made.path).reason


def test_a_folder_in_a_snapshot_reads_its_blobs(tmp_path):
    made = make_cached(tmp_path)
    within = made.path / "unet"
    within.mkdir()
    for name in os.listdir(made.path):
        if name != "unet":
            (within / name).symlink_to(os.path.join("..", os.readlink(made.path / name)))
    sound(within)
    assert deep(within).status is Status.INTACT


@pytest.mark.parametrize("make", [make_cached, make_cached_shared])
def test_a_deep_look_compares_each_blob_with_the_digest_that_names_it(tmp_path, make):
    made = make(tmp_path)
    assert deep(made.path) == Verdict(
        str(made.path), Status.INTACT, size_bytes=one.verify(made.path).size_bytes
    )
    for name in (SHARD, "config.json"):
        blob = (made.path / name).resolve()
        whole = blob.read_bytes()
        blob.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
        found = deep(made.path)
        assert found.status is Status.CORRUPT
        assert found.reason.endswith(name)
        assert found.hint == f"`{FETCH} --force-download` fetches it again"
        blob.write_bytes(whole)


def test_a_deep_look_finds_what_is_missing_and_what_an_index_says_otherwise(tmp_path):
    made = make_cached(tmp_path)
    (made.path / SHARD).unlink()
    assert deep(made.path).status is Status.INCOMPLETE
    (made.path / SHARD).symlink_to(os.readlink(made.path / "model-00001-of-00003.safetensors"))
    found = deep(made.path)
    assert found.status is Status.CORRUPT
    assert f"{SHARD} lacks" in found.reason


def test_with_a_file_that_has_no_digest_a_deep_look_proves_no_more_than_another(tmp_path):
    made = make_cached(tmp_path)
    (made.path / "notes.txt").write_text("mine")
    assert deep(made.path).status is Status.UNVERIFIABLE
    assert "none of them has a digest" in deep(make_single(tmp_path).path).reason


def test_a_deep_look_at_one_file_of_a_snapshot_compares_it(tmp_path):
    made = make_cached(tmp_path)
    assert verification.verify(str(made.path / SHARD), deep=True).status is Status.INTACT
    assert verification.verify(str(made.path / SHARD)).status is Status.UNVERIFIABLE
    target = (made.path / SHARD).resolve()
    target.write_bytes(target.read_bytes()[:-1] + b"\0")
    assert verification.verify(str(made.path / SHARD), deep=True).status is Status.CORRUPT


def test_no_digest_is_read_from_a_link_that_leads_elsewhere(tmp_path):
    made = make_cached(tmp_path)
    elsewhere = tmp_path / ("0" * 64)
    elsewhere.write_bytes(b"")
    for name, target in (("a", elsewhere), ("b", made.path / SHARD)):
        (made.path / name).symlink_to(target)
        assert hub.digest(str(made.path / name)) == ""
    assert len(hub.digest(str(made.path / SHARD))) == 64
    assert len(hub.digest(str(made.path / "config.json"))) == 40
