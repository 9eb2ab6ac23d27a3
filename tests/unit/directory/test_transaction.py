"""A folder appears whole, durable and with checksums, or not at all."""

from __future__ import annotations

import json
import os
import stat
import zlib
from pathlib import Path

import pytest

from marlin_ckpt import StorageError
from marlin_ckpt.directory import leftovers
from marlin_ckpt.directory.transaction import Transaction
from marlin_ckpt.errors import ArgumentsError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.naming import MANIFEST
from marlin_ckpt.storage.local import publishing, staging, temporary
from tests.support.folder_checkpoints import about, fill, read_all, save, staged

NAME = "checkpoint-500"
FILES = {"model.safetensors": b"weights" * 300, "rank/0/rng.pth": b"r", "empty": b""}


def test_the_files_appear_under_the_name_with_a_manifest_that_lists_them(tmp_path):
    transaction = save(tmp_path / "new" / "runs", NAME, FILES)
    folder = tmp_path / "new" / "runs" / NAME
    found = read_all(folder)
    manifest = json.loads(found.pop(MANIFEST))
    assert found == FILES
    assert manifest["layout"] == "folder"
    assert {one["name"]: (one["size"], one["crc32"]) for one in manifest["records"]} == {
        name: (len(data), zlib.crc32(data)) for name, data in FILES.items()
    }
    assert Manifest.from_json((folder / MANIFEST).read_bytes()).metrics == {"loss": 0.5}
    assert os.listdir(folder.parent) == [NAME]
    report = transaction.report
    assert (report.path, report.index, report.is_model) == (str(folder), 500, False)
    assert report.size_bytes == sum(map(len, read_all(folder).values()))
    assert report.stall_s >= report.sync_s > 0


def test_a_file_longer_than_one_part_has_the_checksum_of_all_its_bytes(tmp_path):
    data = os.urandom(1 << 20) * 40 + b"end"
    save(tmp_path, NAME, {"long": data, "short": b"s"})
    (long, short) = json.loads((tmp_path / NAME / MANIFEST).read_bytes())["records"]
    assert (long["size"], long["crc32"]) == (len(data), zlib.crc32(data))
    assert short["crc32"] == zlib.crc32(b"s")


def test_until_then_the_folder_has_a_temporary_name_that_no_sweep_takes(tmp_path):
    with Transaction(tmp_path, NAME, manifest=about()) as folder:
        assert os.path.isabs(folder)
        assert temporary.is_temporary(os.path.basename(folder))
        assert os.listdir(folder) == []
        leftovers.sweep(str(tmp_path), leftovers._logger)
        fill(folder, FILES)
        assert os.listdir(tmp_path) == [os.path.basename(folder)]
    assert os.listdir(tmp_path) == [NAME]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("is_new", [True, False])
def test_after_an_exception_nothing_is_left_and_the_old_one_stands(tmp_path, error, is_new):
    if not is_new:
        save(tmp_path, NAME, {"old": b"old"})
    before = read_all(tmp_path)
    with pytest.raises(error), Transaction(tmp_path, NAME, manifest=about()) as folder:
        fill(folder, FILES)
        raise error
    assert read_all(tmp_path) == before
    assert staged(tmp_path) == []


@pytest.mark.parametrize("has_exchange", [True, False])
def test_a_folder_of_the_name_is_replaced_as_a_whole(tmp_path, monkeypatch, has_exchange):
    if not has_exchange:
        monkeypatch.setattr(staging, "exchange", no_exchange)
    save(tmp_path, NAME, {"old": b"old", "deep/er": b"x"})
    save(tmp_path, NAME, FILES)
    found = read_all(tmp_path / NAME)
    del found[MANIFEST]
    assert found == FILES
    assert os.listdir(tmp_path) == [NAME]


def no_exchange(directory_fd, one, other):
    raise OSError(22, "Invalid argument", other)


@pytest.mark.parametrize("has_exchange", [True, False])
def test_if_the_new_name_cannot_be_made_durable_the_old_one_comes_back(tmp_path, monkeypatch, has_exchange):
    save(tmp_path, NAME, {"old": b"old"})
    before = read_all(tmp_path)
    if not has_exchange:
        monkeypatch.setattr(staging, "exchange", no_exchange)

    def fail(fd):
        raise OSError(5, os.strerror(5))

    with pytest.raises(StorageError, match=NAME), Transaction(tmp_path, NAME, manifest=about()) as folder:
        fill(folder, FILES)
        monkeypatch.setattr(staging, "sync_open_directory", fail)
    assert read_all(tmp_path) == before
    assert os.listdir(tmp_path) == [NAME]


def test_without_overwrite_a_name_that_is_taken_is_refused_at_the_beginning_and_at_the_end(tmp_path):
    def transaction():
        return Transaction(tmp_path, NAME, manifest=about(), overwrite=False)

    with pytest.raises(StorageError, match="exists"), transaction() as folder:
        fill(folder, FILES)
        save(tmp_path, NAME, {"other": b"o"})
    other = read_all(tmp_path)
    assert "o" in {value.decode() for name, value in other.items() if name.endswith("other")}
    with pytest.raises(StorageError, match="exists"), transaction():
        raise AssertionError("the block is not entered")
    assert read_all(tmp_path) == other
    assert os.listdir(tmp_path) == [NAME]


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("what", ["file", "link"])
def test_what_is_no_folder_is_never_replaced(tmp_path, what, overwrite):
    if what == "file":
        (tmp_path / NAME).write_bytes(b"mine")
    else:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / NAME).symlink_to("elsewhere")
    with (
        pytest.raises(StorageError, match="has the name of the folder"),
        Transaction(tmp_path, NAME, manifest=about(), overwrite=overwrite),
    ):
        raise AssertionError("the block is not entered")
    assert staged(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "/a",
        "a/",
        "a\0",
        ".trash",
        ".marlin-ckpt",
        ".marlin",
        ".x.host.1.0123abcd.marlin-tmp",
    ],
)
def test_names_that_mean_something_else_are_refused(tmp_path, name):
    with pytest.raises(ArgumentsError, match="name"):
        Transaction(tmp_path, name, manifest=about())


@pytest.mark.parametrize(
    ("plant", "what"),
    [
        (lambda path: path.symlink_to("model.safetensors"), "a symbolic link"),
        (lambda path: path.symlink_to("nowhere"), "a symbolic link"),
        (os.mkfifo, "a FIFO"),
        (lambda path: os.mknod(path, stat.S_IFSOCK | 0o600), "a socket"),
        (lambda path: (path.parent / f".x.h.1.00000000{temporary.SUFFIX}").write_bytes(b""), "being written"),
    ],
    ids=["link", "dangling link", "pipe", "socket", "unfinished file"],
)
def test_what_is_neither_file_nor_folder_is_refused_by_its_path(tmp_path, plant, what):
    with (
        pytest.raises(StorageError, match=what) as caught,
        Transaction(tmp_path, NAME, manifest=about()) as folder,
    ):
        fill(folder, FILES)
        plant(Path(folder, "rank", "odd"))
    assert "rank/" in str(caught.value)
    assert str(tmp_path / NAME) in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_file_that_changes_while_the_block_ends_is_noticed(tmp_path, monkeypatch):
    real = publishing.make_durable

    def change(path):
        real(path)
        os.utime(os.path.join(path, "empty"), ns=(1, 1))

    monkeypatch.setattr(publishing, "make_durable", change)
    with pytest.raises(StorageError, match="refused to save empty: it is still being written"):
        save(tmp_path, NAME, FILES)
    assert os.listdir(tmp_path) == []


def test_a_staging_folder_that_has_vanished_is_an_error_of_the_disk(tmp_path):
    with pytest.raises(StorageError), Transaction(tmp_path, NAME, manifest=about()) as folder:
        os.rmdir(folder)
    assert os.listdir(tmp_path) == []


def test_hard_links_and_modes_stay_and_a_copied_manifest_is_not_written_through(tmp_path):
    save(tmp_path, "checkpoint-1", FILES)
    old = (tmp_path / "checkpoint-1" / MANIFEST).read_bytes()
    with Transaction(tmp_path, NAME, manifest=about()) as folder:
        for name in (*FILES, MANIFEST):
            os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
            os.link(tmp_path / "checkpoint-1" / name, os.path.join(folder, name))
        os.chmod(os.path.join(folder, "empty"), 0o640)
    assert (tmp_path / NAME / "empty").stat().st_nlink == 2
    assert stat.S_IMODE((tmp_path / NAME / "empty").stat().st_mode) == 0o640
    assert (tmp_path / "checkpoint-1" / MANIFEST).read_bytes() == old
    assert json.loads((tmp_path / NAME / MANIFEST).read_bytes())["index"] == 500


def test_names_with_bytes_that_are_no_text_are_kept(tmp_path):
    name = os.fsdecode(b"caf\xe9\n")
    save(tmp_path, NAME, {name: b"x"})
    (record,) = Manifest.from_json((tmp_path / NAME / MANIFEST).read_bytes()).records
    assert record["name"] == name
