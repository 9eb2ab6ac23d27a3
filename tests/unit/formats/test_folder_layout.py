"""A folder with a manifest of ours is one checkpoint: what it is called, whether it is whole and intact."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marlin_ckpt.directory import catalog
from marlin_ckpt.entries import Entry
from marlin_ckpt.formats import inspection, manifest, verification
from marlin_ckpt.formats.layouts.folder import FolderLayout
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.naming import MANIFEST
from tests.support.folder_checkpoints import read_all, save

FILES = {"model.safetensors": b"weights" * 300, "rank/0/rng.pth": b"r", "empty": b""}


@pytest.fixture
def folder(tmp_path) -> Path:
    save(tmp_path, "checkpoint-500", FILES)
    return tmp_path / "checkpoint-500"


def entry_of(folder: Path) -> Entry:
    found = catalog.entry(folder)
    assert found is not None
    return found


def inspected(folder: Path) -> tuple[Status | None, str]:
    found = inspection.inspect(entry_of(folder))
    return found.status, found.reason


def verified(folder: Path) -> tuple[Status, str]:
    found = verification.verify(entry_of(folder))
    return found.status, found.reason


def rewrite(folder: Path, **changes) -> None:
    values = json.loads((folder / MANIFEST).read_bytes())
    del values["checksum"]
    (folder / MANIFEST).write_bytes(manifest.summed(json.dumps({**values, **changes}).encode()))


@pytest.mark.parametrize(
    ("name", "prefix", "index", "written"),
    [
        ("model_7", "model", 7, "model_7"),
        ("model_7.ckpt", "model", 7, "model_7.ckpt"),
        ("my_model_3", "my_model", 3, "my_model_3"),
        ("checkpoint_3", "checkpoint", 3, "checkpoint_3"),
        ("v1.5_3", "v1.5", 3, "v1.5_3"),
        ("checkpoint-500", "checkpoint", 500, None),
        ("tmp-checkpoint-500", "tmp-checkpoint", 500, None),
        ("global_step100", "global_step", 100, None),
        ("step-1000", "step", 1000, None),
        ("epoch=2-step=6", "epoch", 6, None),
    ],
)
def test_its_name_is_read_by_our_grammar_or_that_of_another_tool(name, prefix, index, written):
    found = FolderLayout().read_name(name)
    assert (found.prefix, found.index, found.kind) == (prefix, index, "checkpoint")
    assert written in (None, str(found))


@pytest.mark.parametrize("name", ["best", "last.ckpt", "_3", "model_x", "model_\u0663", "v1.5", ".hidden"])
def test_any_other_name_has_no_index(name):
    assert FolderLayout().read_name(name) is None


def test_as_it_was_saved_it_is_complete_and_intact_and_has_the_size_of_all_its_files(folder):
    assert inspected(folder) == (Status.COMPLETE, "")
    assert verified(folder) == (Status.INTACT, "")
    assert inspection.inspect(entry_of(folder)).manifest.metrics == {"loss": 0.5}
    assert entry_of(folder).size_bytes == sum(map(len, read_all(folder).values()))


def test_progress_counts_each_byte_that_the_manifest_lists_once(folder):
    counted = []
    verification.verify(entry_of(folder), counted.append)
    assert sum(counted) == sum(map(len, FILES.values()))


def test_files_that_were_added_later_are_noted_and_no_fault(folder):
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("good one")
    assert inspected(folder) == (Status.COMPLETE, "not in its manifest: notes/mine.txt")
    assert verified(folder) == (Status.INTACT, "not in its manifest: notes/mine.txt")


def test_a_missing_file_makes_it_incomplete_by_its_name(folder):
    (folder / "rank/0/rng.pth").unlink()
    assert inspected(folder) == verified(folder) == (Status.INCOMPLETE, "rank/0/rng.pth is missing")
    (folder / "empty").unlink()
    assert inspected(folder) == (Status.INCOMPLETE, "empty, rank/0/rng.pth are missing")


def test_a_shorter_file_makes_it_incomplete_and_a_longer_one_corrupt(folder):
    os.truncate(folder / "model.safetensors", 2000)
    wanted = "model.safetensors has 2,000 bytes and not 2,100"
    assert inspected(folder) == verified(folder) == (Status.INCOMPLETE, wanted)
    os.truncate(folder / "model.safetensors", 2101)
    assert inspected(folder) == verified(folder)
    assert inspected(folder)[0] is Status.CORRUPT


def test_changed_bytes_make_it_corrupt_by_the_file_that_they_are_in(folder):
    (folder / "rank/0/rng.pth").write_bytes(b"s")
    assert inspected(folder) == (Status.COMPLETE, "")
    assert verified(folder) == (Status.CORRUPT, "the CRC of rank/0/rng.pth does not hold")


def test_a_link_in_the_place_of_a_file_is_corrupt_and_not_read(folder, tmp_path):
    (folder / "rank/0/rng.pth").unlink()
    (tmp_path / "elsewhere").write_bytes(b"r")
    (folder / "rank/0/rng.pth").symlink_to(tmp_path / "elsewhere")
    wanted = (Status.CORRUPT, "a symbolic link is in the place of rank/0/rng.pth")
    assert inspected(folder) == verified(folder) == wanted


def test_a_link_in_the_place_of_a_folder_in_it_is_not_followed(folder, tmp_path):
    shutil.move(folder / "rank", tmp_path / "rank")
    (folder / "rank").symlink_to(tmp_path / "rank")
    assert inspected(folder)[0] is Status.INCOMPLETE


def test_a_folder_whose_manifest_is_a_folder_is_no_checkpoint(folder):
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()
    assert catalog.entry(folder) is None


def test_a_manifest_that_is_a_link_is_corrupt(folder, tmp_path):
    shutil.move(folder / MANIFEST, tmp_path / "manifest.json")
    (folder / MANIFEST).symlink_to(tmp_path / "manifest.json")
    assert inspected(folder) == verified(folder) == (Status.CORRUPT, "the manifest is a symbolic link")


@pytest.mark.parametrize(
    "name",
    ["../model.pt", "/etc/passwd", "a//b", "a/./b", "a/..", "", ".", "a\0b", MANIFEST, 7, None, ["a"]],
    ids=repr,
)
def test_a_manifest_that_lists_what_is_outside_or_no_name_is_corrupt(folder, name):
    rewrite(folder, records=[{"name": name, "size": 1, "crc32": 0}])
    assert inspected(folder)[0] is verified(folder)[0] is Status.CORRUPT


@pytest.mark.parametrize(
    "records",
    [
        [{"name": "a", "size": -1, "crc32": 0}],
        [{"name": "a", "size": True, "crc32": 0}],
        [{"name": "a", "size": 1.0, "crc32": 0}],
        [{"name": "a", "size": 1, "crc32": "0"}],
        [{"name": "a", "size": 1}],
        ["a"],
        [{"name": "empty", "size": 0, "crc32": 0}] * 2,
    ],
    ids=repr,
)
def test_a_manifest_whose_list_no_save_has_written_is_corrupt(folder, records):
    rewrite(folder, records=records)
    assert inspected(folder)[0] is verified(folder)[0] is Status.CORRUPT


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'"x"', b"\xff\xfe", b"[" * 100_000], ids=range(7))
def test_a_damaged_manifest_makes_it_corrupt(folder, data):
    (folder / MANIFEST).write_bytes(data)
    assert inspected(folder)[0] is verified(folder)[0] is Status.CORRUPT
    assert "manifest" in inspected(folder)[1]


def test_a_manifest_that_would_take_too_much_memory_is_refused_before_it_is_read(folder, monkeypatch):
    monkeypatch.setattr(manifest, "_MOST_BYTES", 0)
    (folder / MANIFEST).write_bytes(b" " * 1000)
    assert "refused as too large" in inspected(folder)[1]
    assert "refused as too large" in verified(folder)[1]


@pytest.mark.parametrize("change", [{"layout": "heap"}, {"format_version": 2}], ids=repr)
def test_one_by_a_newer_version_cannot_be_judged(folder, change):
    rewrite(folder, **change)
    assert inspected(folder)[0] is verified(folder)[0] is Status.UNVERIFIABLE


def test_keys_that_are_not_known_are_ignored(folder):
    rewrite(folder, of_tomorrow={"a": [1]})
    assert verified(folder) == (Status.INTACT, "")


def test_no_bit_of_the_manifest_changes_behind_its_checksum_without_being_found(folder):
    whole = (folder / MANIFEST).read_bytes()
    for bit in range(8 * len('{"checksum":"'), 8 * len(whole), 3):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        (folder / MANIFEST).write_bytes(changed)
        assert verified(folder)[0] is Status.CORRUPT, bytes(changed)


def test_a_manifest_of_an_earlier_version_has_no_checksum_and_is_read(folder):
    values = json.loads((folder / MANIFEST).read_bytes())
    del values["checksum"]
    (folder / MANIFEST).write_text(json.dumps(values))
    assert verified(folder) == (Status.INTACT, "")


def test_the_manifest_of_a_file_names_no_layout():
    own = manifest.Manifest(kind="checkpoint", index=1, created="", run_id="r", save_number=1)
    assert b"layout" not in own.to_json()


NAMES = st.lists(st.text("ab.\u00e9 ", min_size=1, max_size=3), min_size=1, max_size=3).map("/".join)
TREES = st.dictionaries(NAMES, st.binary(max_size=40), max_size=5)


def is_a_tree(files: dict[str, bytes]) -> bool:
    parts = [name.split("/") for name in files]
    are_names = all(part not in (".", "..") for one in parts for part in one)
    return are_names and not any(other.startswith(f"{one}/") for one in files for other in files)


@settings(deadline=None, max_examples=40)
@given(TREES.filter(is_a_tree), st.data())
def test_whatever_files_are_saved_are_there_again_and_any_bit_that_flips_is_found(files, data):
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp())
        stack.callback(shutil.rmtree, directory)
        save(directory, "any", files)
        folder = directory / "any"
        found = read_all(folder)
        del found[MANIFEST]
        assert found == files
        assert verified(folder) == (Status.INTACT, "")
        if places := [(name, at) for name, content in files.items() for at in range(len(content))]:
            name, at = data.draw(st.sampled_from(places))
            flipped = bytearray(files[name])
            flipped[at] ^= 1 << data.draw(st.integers(0, 7))
            (folder / name).write_bytes(flipped)
            assert verified(folder) == (Status.CORRUPT, f"the CRC of {name} does not hold")
