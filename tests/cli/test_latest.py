"""`marlin-ckpt latest`."""

from __future__ import annotations

import json
import os
import shlex
import stat
from pathlib import Path

import pytest

from marlin_ckpt.cli.main import main


@pytest.fixture
def latest(capsysbinary):
    def run(*arguments: str | Path) -> tuple[int, bytes, bytes]:
        code = main(["latest", *map(os.fspath, arguments)])
        return code, *capsysbinary.readouterr()

    return run


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_the_path_of_the_greatest_index_is_all_that_is_printed(latest, tmp_path):
    touch(*(tmp_path / f"model_{index}.pt" for index in (2, 10, 9)))
    assert latest(tmp_path) == (0, os.fsencode(tmp_path / "model_10.pt") + b"\n", b"")


def test_a_relative_directory_gives_a_relative_path(latest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(Path("runs/model_1.pt"))
    assert latest("runs")[1] == b"runs/model_1.pt\n"


def test_sub_directories_are_searched_too(latest, tmp_path):
    touch(tmp_path / "model_1.pt", tmp_path / "old" / "deep" / "model_7.pt")
    assert latest(tmp_path)[1] == os.fsencode(tmp_path / "old/deep/model_7.pt") + b"\n"


def test_of_equal_indices_the_file_changed_last_is_printed(latest, tmp_path):
    touch(tmp_path / "a" / "model_7.pt", tmp_path / "b" / "model_7.pt")
    os.utime(tmp_path / "a" / "model_7.pt", (2_000_000_000, 2_000_000_000))
    os.utime(tmp_path / "b" / "model_7.pt", (1_000_000_000, 1_000_000_000))
    assert latest(tmp_path)[1] == os.fsencode(tmp_path / "a/model_7.pt") + b"\n"


def test_prefix_and_extension_choose_among_the_files(latest, tmp_path):
    touch(tmp_path / "model_9.pt", tmp_path / "run_9.ckpt", tmp_path / "run_3.pt", tmp_path / "run_8.ppt")
    assert latest(tmp_path, "--prefix", "run")[1] == os.fsencode(tmp_path / "run_3.pt") + b"\n"
    assert (
        latest(tmp_path, "--prefix", "run", "--ext", "ckpt")[1]
        == os.fsencode(tmp_path / "run_9.ckpt") + b"\n"
    )


def test_a_name_that_does_not_fit_is_printed_only_where_nothing_fits(latest, tmp_path):
    touch(tmp_path / "model_epoch_7.pt")
    assert latest(tmp_path)[1] == os.fsencode(tmp_path / "model_epoch_7.pt") + b"\n"
    touch(tmp_path / "model_1.pt")
    assert latest(tmp_path)[1] == os.fsencode(tmp_path / "model_1.pt") + b"\n"


def test_json_is_one_document_with_the_path(latest, tmp_path):
    touch(tmp_path / "model_3.pt")
    code, out, err = latest(tmp_path, "--json")
    document = {"schema": "marlin-ckpt/latest/1", "path": str(tmp_path / "model_3.pt")}
    assert (code, json.loads(out), err) == (0, document, b"")


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([], id="empty directory"),
        pytest.param(["model_model_3.pt", "model_mode_4.pt"], id="model files alone"),
        pytest.param(["model_3.ppt", "model_4.pt.bak", "other_5.pt", "model.pt"], id="other names"),
        pytest.param(["model_1.safetensors"], id="another extension"),
        pytest.param([".model_3.pt.host.1.0123abcd.marlin-tmp"], id="a temporary file"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["plain", "json"])
def test_no_checkpoint_exits_4_with_a_message_on_stderr_and_in_the_document(latest, tmp_path, names, options):
    touch(*(tmp_path / name for name in names))
    code, out, err = latest(tmp_path, *options)
    assert code == 4
    assert json.loads(out)["error"]["exit_code"] == 4 if options else out == b""
    assert os.fsencode(tmp_path) in err
    assert b"error: no checkpoint" in err


def test_a_directory_that_is_not_there_exits_4(latest, tmp_path):
    code, out, err = latest(tmp_path / "missing")
    assert (code, out) == (4, b"")
    assert os.fsencode(tmp_path / "missing") in err


@pytest.mark.parametrize("kind", ["fifo", "directory", "dangling link"])
def test_what_is_no_file_is_never_printed(latest, tmp_path, kind):
    path = tmp_path / "model_9.pt"
    {
        "fifo": lambda: os.mkfifo(path),
        "directory": path.mkdir,
        "dangling link": lambda: path.symlink_to("nowhere"),
    }[kind]()
    touch(tmp_path / "model_1.pt")
    assert latest(tmp_path)[1] == os.fsencode(tmp_path / "model_1.pt") + b"\n"
    assert stat.S_IFMT(path.lstat().st_mode) != stat.S_IFREG


def test_a_file_in_place_of_the_directory_exits_1_and_says_so(latest, tmp_path):
    touch(tmp_path / "model_1.pt")
    code, out, err = latest(tmp_path / "model_1.pt")
    assert (code, out) == (1, b"")
    error, hint = err.decode().splitlines()
    assert error == f"error: cannot read the directory: Not a directory: {tmp_path / 'model_1.pt'}"
    assert hint == f"hint: it is a file; marlin-ckpt show {tmp_path / 'model_1.pt'} looks into it"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gpt_7.pth", "--prefix gpt --ext pth"),
        ("my run_7.pth", "--prefix 'my run' --ext pth"),
        ("run/gpt_7.pt", "--prefix gpt"),
    ],
)
def test_where_there_is_none_of_the_prefix_the_hint_names_options_that_find_what_is_there(
    latest, tmp_path, name, options
):
    touch(tmp_path / name)
    code, out, err = latest(tmp_path)
    assert (code, out) == (4, b"")
    assert err.decode().splitlines()[1:] == [f"hint: there are checkpoints with {options}"]
    assert latest(tmp_path, *shlex.split(options)) == (0, os.fsencode(tmp_path / name) + b"\n", b"")


def test_where_all_are_damaged_it_says_so_and_what_can_still_be_had_of_them(latest, tmp_path):
    touch(tmp_path / "model_1.pt", tmp_path / "model_2.pt")
    code, out, err = latest(tmp_path, "--intact")
    assert (code, out) == (4, b"")
    assert b"error: no intact checkpoint found" in err
    assert (
        f"hint: marlin-ckpt salvage FILE --output OUT takes out what is left of one: {tmp_path}".encode()
        in err
    )
    assert b"--prefix" not in err  # these are of the prefix that was looked for
