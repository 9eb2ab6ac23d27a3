"""`marlin-ckpt list`: the order, the table, the JSON, and which files are listed."""

from __future__ import annotations

import datetime
import functools
import json
import math
import os
import re
from pathlib import Path

import pytest
import torch

from marlin_ckpt.naming import EXTENSIONS

FILE_KEYS = {
    "path",
    "index",
    "kind",
    "layout",
    "size_bytes",
    "own_bytes",
    "modified",
    "complete",
    "intact",
    "reason",
    "metrics",
    "run_id",
    "save_number",
    "created",
    "versions",
}


@pytest.fixture
def list_(run_main):
    return functools.partial(run_main, "list")


@pytest.fixture
def list_json(list_):
    def run(*arguments: str | Path) -> list[dict]:
        code, out, err = list_(*arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out, parse_constant=pytest.fail)["checkpoints"]

    return run


@pytest.fixture
def directory(tmp_path) -> Path:
    return tmp_path / "checkpoints"


def cells(line: str) -> list[str]:
    """The cells of a row, without the sign of the newest."""
    return re.split(r"  +", line.replace("  > ", "    ").strip())


def test_files_come_in_the_integer_order_of_their_indices(
    list_, make_checkpointer, make_checkpoint, directory
):
    checkpointer = make_checkpointer()
    for index in (100, 9, 10, 2):
        checkpointer.save(make_checkpoint(), index)
    code, out, err = list_(directory, "--quiet")
    assert (code, err) == (0, "")
    assert [cells(line)[0] for line in out.splitlines()] == ["index", "2", "9", "10", "100"]


def test_the_table_shows_index_kind_size_age_metrics_and_complete(
    list_, manifests_say, make_checkpointer, make_checkpoint, directory
):
    checkpointer = make_checkpointer()
    manifests_say(datetime.timedelta(hours=3, minutes=1))
    checkpointer.save(make_checkpoint(loss=0.25, accuracy=1.0), 7)
    checkpointer.save_model({"weight": 1}, 7)
    header, checkpoint, model = list_(directory)[1].splitlines()
    size = (directory / "model_7.pt").stat().st_size
    assert cells(header) == ["index", "kind", "size", "age", "accuracy", "loss", "complete", "file"]
    assert cells(checkpoint) == [
        "7", "checkpoint", f"{size / 1000:.3g} kB", "3 h", "1", "0.25", "yes", "model_7.pt",
    ]  # fmt: skip
    assert cells(model)[4:6] == ["-", "-"]
    assert cells(model)[:2] + cells(model)[-2:] == ["7", "model", "yes", "model_model_7.pt"]


def test_a_file_from_the_future_is_no_age_old(list_, directory):
    directory.mkdir()
    (directory / "model_0.pt").touch()
    os.utime(directory / "model_0.pt", (4e9, 4e9))
    assert "  0 s  " in list_(directory)[1]


def test_age_and_since_go_by_the_manifest_where_there_is_one(
    list_, list_json, manifests_say, make_checkpointer, make_checkpoint, directory
):
    checkpointer = make_checkpointer()
    for index in range(2):
        checkpointer.save(make_checkpoint(), index)
    manifests_say(datetime.timedelta(days=7, minutes=1))
    checkpointer.save(make_checkpoint(), 2)  # a copy: the file itself is of today
    os.utime(directory / "model_1.pt", (86400, 86400))  # written under a wrong clock
    assert [one["index"] for one in list_json(directory, "--since", "1h")] == [0, 1]
    assert [one["index"] for one in list_json(directory, "--sort", "age")] == [2, 0, 1]
    rows = list_(directory)[1].splitlines()[1:]
    assert [cells(row)[3] for row in rows][2] == "7 d"


def test_json_is_one_document_with_these_keys(list_, make_checkpointer, make_checkpoint, directory):
    make_checkpointer().save(make_checkpoint(), 0)
    (directory / "other.pt").write_text("not ours")
    code, out, err = list_(directory, "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document.keys() == {"schema", "directory", "disk_bytes", "checkpoints"}
    assert document["directory"] == str(directory)
    assert [set(one) for one in document["checkpoints"]] == [FILE_KEYS, FILE_KEYS]


def test_json_says_of_our_file_what_it_is(list_json, make_checkpointer, make_checkpoint, directory):
    checkpointer = make_checkpointer()
    checkpointer.save(make_checkpoint(), 3)
    path = checkpointer.save(make_checkpoint(loss=0.5), 4)
    status = os.stat(path)
    document = list_json(directory)[1]
    modified = datetime.datetime.fromisoformat(document.pop("modified"))
    created = datetime.datetime.fromisoformat(document.pop("created"))
    assert modified.tzinfo == created.tzinfo == datetime.UTC
    assert abs(created - modified) <= datetime.timedelta(seconds=2)
    assert modified.timestamp() == status.st_mtime_ns // 10**9
    assert document.pop("versions").keys() == {"marlin_ckpt", "torch", "python"}
    assert document.pop("own_bytes") in (None, status.st_size)
    assert document == {
        "path": path,
        "index": 4,
        "kind": "checkpoint",
        "layout": None,
        "size_bytes": status.st_size,
        "complete": True,
        "intact": None,
        "reason": None,
        "metrics": {"loss": 0.5},
        "run_id": checkpointer.run_id,
        "save_number": 2,
    }


def test_metrics_that_json_cannot_spell_are_strings_that_float_reads(
    list_, list_json, make_checkpointer, make_checkpoint, directory
):
    make_checkpointer().save(make_checkpoint(a=math.nan, b=math.inf, c=-math.inf), 0)
    metrics = list_json(directory)[0]["metrics"]
    assert {name: repr(float(value)) for name, value in metrics.items()} == {
        "a": "nan",
        "b": "inf",
        "c": "-inf",
    }
    assert cells(list_(directory)[1].splitlines()[1])[4:7] == ["nan", "inf", "-inf"]


def test_sub_directories_are_listed_only_when_asked_for(
    list_, list_json, make_checkpointer, make_checkpoint, directory
):
    make_checkpointer().save(make_checkpoint(), 5)
    make_checkpointer(save_dir=str(directory / "sub" / "deep")).save(make_checkpoint(), 1)
    assert [one["index"] for one in list_json(directory)] == [5]
    assert [one["path"] for one in list_json(directory, "--recursive")] == [
        str(directory / "model_5.pt"),
        str(directory / "sub/deep/model_1.pt"),
    ]
    shown = [cells(line)[-1] for line in list_(directory, "--recursive")[1].splitlines()]
    assert shown == ["file", "model_5.pt", "sub/deep/model_1.pt"]


def test_a_linked_directory_is_not_entered(
    list_json, make_checkpointer, make_checkpoint, directory, tmp_path
):
    make_checkpointer(save_dir=str(tmp_path / "elsewhere")).save(make_checkpoint(), 1)
    directory.mkdir()
    (directory / "link").symlink_to(tmp_path / "elsewhere")
    (directory / "loop").symlink_to(directory)
    assert list_json(directory, "--recursive") == []


def test_prefix_lists_what_fits_the_grammar_with_it_and_nothing_else(list_json, directory):
    directory.mkdir()
    names = ["run_1.pt", "run_model_2.pt", "run_mode_3.pt"]
    for name in [*names, "run_big_4.pt", "runner_5.pt", "run-6.pt", "run.pt", "model_7.pt", "run_8.ckpt"]:
        (directory / name).touch()
    listed = list_json(directory, "--prefix", "run", "--ext", "pt")
    assert [os.path.basename(one["path"]) for one in listed] == names
    assert [one["kind"] for one in listed] == ["checkpoint", "model", "model"]
    of_any = list_json(directory, "--prefix", "run")
    assert [os.path.basename(one["path"]) for one in of_any] == [*names, "run_8.ckpt"]


def test_the_extension_is_compared_with_its_dot(list_json, directory):
    directory.mkdir()
    for name in ("a_1.pt", "b_2.ckpt", "notes_3.ppt", "keepme_4.pt.bak", "pt", ".pt", "c_5.PT"):
        (directory / name).touch()
    assert [os.path.basename(one["path"]) for one in list_json(directory)] == ["a_1.pt", "b_2.ckpt"]
    assert [os.path.basename(one["path"]) for one in list_json(directory, "--ext", "pt")] == ["a_1.pt"]
    assert [os.path.basename(one["path"]) for one in list_json(directory, "--ext", "ckpt")] == ["b_2.ckpt"]


def test_all_usual_extensions_are_listed_but_no_data_that_has_one_of_them(list_json, directory):
    directory.mkdir()
    for extension in EXTENSIONS:
        (directory / f"model_1.{extension}").touch()
        (directory / f"weights.{extension}").touch()
    for name in ("train.bin", "tokens.bin"):
        (directory / name).write_bytes(os.urandom(100))
    torch.save({"w": torch.ones(2)}, directory / "weights.bin")
    listed = {os.path.basename(one["path"]) for one in list_json(directory)}
    assert listed == {f"{stem}.{extension}" for stem in ("model_1", "weights") for extension in EXTENSIONS}
    assert len(list_json(directory, "--ext", "bin")) == 4


def test_names_without_an_index_come_last_in_order_of_their_names(list_, directory):
    directory.mkdir()
    for name in ("zebra.pt", "best.pt", "model_3.pt"):
        (directory / name).touch()
    rows = [cells(line) for line in list_(directory)[1].splitlines()[1:]]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("3", "checkpoint", "model_3.pt"),
        ("-", "other", "best.pt"),
        ("-", "other", "zebra.pt"),
    ]


def test_nothing_off_a_terminal_is_cut_however_long(list_, directory):
    directory.mkdir()
    name = "x" * 200 + "_1.pt"
    (directory / name).touch()
    assert list_(directory)[1].splitlines()[1].endswith("  " + name)


def test_an_empty_directory_gives_an_empty_document_and_an_empty_table(list_, list_json, tmp_path):
    assert list_json(tmp_path) == []
    code, out, err = list_(tmp_path)
    assert (code, out) == (0, "")
    assert err == f"no checkpoints in {tmp_path}\n"


def test_where_there_are_none_of_the_extension_a_hint_names_those_that_are_there(list_, list_json, tmp_path):
    (tmp_path / "last.ckpt").touch()
    (tmp_path / "notes.txt").touch()
    hint = "hint: there are files with --ext ckpt"
    assert list_(tmp_path, "--ext", "pt") == (0, "", f"no checkpoints in {tmp_path}\n{hint}\n")
    assert list_json(tmp_path, "--ext", "pt") == []


def test_a_directory_of_something_else_is_said_to_hold_that(list_, tmp_path):
    for name in ("a.gguf", "b.gguf", "c.onnx", "d.txt", "e.csv", "f"):
        (tmp_path / name).touch()
    err = list_(tmp_path)[2]
    assert err.splitlines() == [
        f"no checkpoints in {tmp_path}",
        "hint: it holds other files (2 .gguf, 1 .csv, 1 .onnx, ...); --ext E lists those of an extension",
    ]
    assert len(list_(tmp_path, "--ext", "gguf")[1].splitlines()) == 3


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_a_directory_that_is_not_there_exits_4_and_prints_no_list(list_, tmp_path, options):
    code, out, err = list_(tmp_path / "missing", *options)
    assert (code, bool(out)) == (4, "--json" in options)
    assert err == f"error: no such directory: {tmp_path / 'missing'}\n"


def test_ours_half_written_are_no_checkpoints(list_json, tmp_path):
    (tmp_path / ".model_3.pt.host.1.0123abcd.marlin-tmp").write_bytes(b"half")
    assert list_json(tmp_path) == []
    assert list_json(tmp_path, "--recursive") == []
