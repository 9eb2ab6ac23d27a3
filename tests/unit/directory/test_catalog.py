"""Discovery: which file of a directory is the latest, and which files are found at all."""

from __future__ import annotations

import logging
import os
import random
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marlin_ckpt import CheckpointNotFoundError, DefaultCheckpointer, StorageError, get_latest_file
from marlin_ckpt.directory import catalog
from tests.support.folders import make_deep


def _touch(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _latest(directory: Path, prefix: str = "model", extension: str = "pt") -> str:
    found = get_latest_file(directory, prefix, extension)
    return os.path.relpath(found, directory) if found else ""


_indices = st.sets(st.integers(min_value=0, max_value=10**12), max_size=6)
_noise = st.sets(
    st.sampled_from(
        [
            "notes.ppt",
            "model_999.pt.bak",
            "model_epoch_998.pt",
            "model-997.pt",
            "other_996.pt",
            "model_995.ptx",
        ]
    )
)


@settings(max_examples=150)
@given(
    checkpoints=_indices.filter(bool), models=_indices, noise=_noise, folders=st.lists(st.sampled_from("ab9"))
)
def test_a_greater_index_always_wins(
    checkpoints: set[int], models: set[int], noise: set[str], folders: list[str]
):
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        places = ["", *folders]
        for at, index in enumerate(sorted(checkpoints)):
            _touch(directory, os.path.join(places[at % len(places)], f"model_{index}.pt"))
        _touch(directory, *(f"model_model_{index}.pt" for index in models), *noise)
        assert os.path.basename(_latest(directory)) == f"model_{max(checkpoints)}.pt"


def test_the_greatest_of_twenty_thousand_names_is_found():
    generator = random.Random(0)
    forms = [
        "model_{}.pt",
        "model_model_{}.pt",
        "model_{}.ppt",
        "model-{}.pt",
        "other_{}.pt",
        "model_{}.pt.bak",
    ]
    names = {generator.choice(forms).format(generator.randrange(10**9)) for _ in range(20_000)}
    expected = max(
        (
            name
            for name in names
            if name.startswith("model_") and name[6:-3].isdigit() and name.endswith(".pt")
        ),
        key=lambda name: int(name[6:-3]),
    )
    with tempfile.TemporaryDirectory() as directory:
        opened = os.open(directory, os.O_RDONLY)
        for name in names:
            os.mknod(name, dir_fd=opened)
        os.close(opened)
        assert get_latest_file(directory, "model") == os.path.join(directory, expected)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model_9.pt", "model_10.pt"], "model_10.pt"),
        (["model_0.pt"], "model_0.pt"),
        (["model_9.pt", "model_0010.pt"], "model_0010.pt"),
        (["model_1.pt", "model_model_9.pt", "model_mode_9.pt"], "model_1.pt"),
        (["model_model_9.pt", "model_mode_8.pt"], ""),
        (["model_1.pt", "models_9.pt", "model2_8.pt"], "model_1.pt"),
        (["model_1.pt", "model_2.ppt", "keepme_3.pt.bak", "model_4.pt.bak", "model_5.PT"], "model_1.pt"),
        (["notes.ppt", "keepme.pt.bak"], ""),
        (["model_1.pt", "model_\u0669.pt", "model_\uff19.pt", "model_9\u00b2.pt"], "model_1.pt"),
        (["model_\u0669.pt"], ""),
        (["model_1.pt", "model_9.pt\n", "model_9\n.pt"], "model_1.pt"),
        (["model_1.pt", ".model_9.pt.host.17.0a0b0c0d.marlin-tmp"], "model_1.pt"),
    ],
)
def test_only_names_that_fit_the_grammar_compete_by_integer(tmp_path: Path, names: list[str], expected: str):
    _touch(tmp_path, *names)
    assert _latest(tmp_path) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model_1.pt", "model_epoch_7.pt", "model-8.pt"], "model_1.pt"),
        (["model_epoch_7.pt", "model-8.pt"], "model-8.pt"),
        (["model_epoch_7.pt", "model_model_9.pt"], "model_epoch_7.pt"),
        (["model_3_of_12.pt", "model_epoch_11.pt"], "model_3_of_12.pt"),
        (["model_best.pt", "model_epoch_0.pt"], "model_epoch_0.pt"),
        (["model_best.pt"], ""),
        (["other-9.pt", "model_epoch_1.pt"], "model_epoch_1.pt"),
        (["sub_9/model_best.pt"], ""),
        (["sub_9/model_epoch_1.pt", "sub_1/model_epoch_2.pt"], "sub_1/model_epoch_2.pt"),
    ],
)
def test_loose_names_compete_only_where_nothing_fits(tmp_path: Path, names: list[str], expected: str):
    _touch(tmp_path, *names)
    assert _latest(tmp_path) == expected


def test_the_index_comes_from_the_name_and_never_from_the_folder(tmp_path: Path):
    _touch(tmp_path, "run_99/model_1.pt", "run_1/model_2.pt", "model_50/readme.pt")
    assert _latest(tmp_path) == "run_1/model_2.pt"


def test_sub_directories_of_any_depth_are_searched(tmp_path: Path):
    _touch(tmp_path, "model_1.pt", "a/model_2.pt", "a/b/c/d/model_3.pt")
    assert _latest(tmp_path) == "a/b/c/d/model_3.pt"


def test_of_equal_indices_the_file_changed_last_wins(tmp_path: Path):
    _touch(tmp_path, "a/model_5.pt", "b/model_5.pt", "c/model_05.pt")
    for name, seconds in (("a/model_5.pt", 2000), ("b/model_5.pt", 3000), ("c/model_05.pt", 1000)):
        os.utime(tmp_path / name, (seconds, seconds))
    assert _latest(tmp_path) == "b/model_5.pt"


def test_of_equal_indices_and_times_the_greater_path_wins(tmp_path: Path):
    _touch(tmp_path, "b/model_5.pt", "c/model_5.pt", "a/model_5.pt")
    for name in "abc":
        os.utime(tmp_path / name / "model_5.pt", (1000, 1000))
    assert _latest(tmp_path) == "c/model_5.pt"


def test_a_newer_file_of_a_smaller_index_does_not_win(tmp_path: Path):
    _touch(tmp_path, "model_2.pt", "model_1.pt")
    os.utime(tmp_path / "model_2.pt", (1000, 1000))
    assert _latest(tmp_path) == "model_2.pt"


def _make_folder(path: Path) -> None:
    path.mkdir()


def _make_broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


def _make_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def _make_link_to_a_folder(path: Path) -> None:
    (path.parent / "target").mkdir(exist_ok=True)
    path.symlink_to("target")


def _make_fifo(path: Path) -> None:
    os.mkfifo(path)


def _make_socket(path: Path) -> None:
    # A socket's address has room for 108 bytes, less than a temporary directory's path may take.
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


@pytest.mark.parametrize(
    "make",
    [_make_folder, _make_broken_link, _make_link_to_itself, _make_link_to_a_folder, _make_fifo, _make_socket],
)
@pytest.mark.parametrize("name", ["model_9.pt", "model_epoch_9.pt"])
def test_what_is_no_regular_file_never_wins(tmp_path: Path, make, name: str):
    make(tmp_path / name)
    assert _latest(tmp_path) == ""
    assert catalog.find(tmp_path) == []
    _touch(tmp_path, "model_1.pt")
    assert _latest(tmp_path) == "model_1.pt"


def test_a_link_to_a_regular_file_counts_under_its_own_name(tmp_path: Path):
    _touch(tmp_path, "elsewhere/data", "load/model_1.pt")
    (tmp_path / "load/model_2.pt").symlink_to(tmp_path / "elsewhere/data")
    assert _latest(tmp_path / "load") == "model_2.pt"


def test_links_to_folders_are_not_entered(tmp_path: Path):
    _touch(tmp_path, "load/model_1.pt", "elsewhere/model_9.pt")
    (tmp_path / "load/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "load/loop").symlink_to(tmp_path / "load")
    assert _latest(tmp_path / "load") == "model_1.pt"


@pytest.mark.parametrize(
    ("prefix", "name"),
    [("caf\udce9", "caf\udce9_7.pt"), ("model", "sub\udcff/model_7.pt"), ("model", "model_\udce9_7.pt")],
)
def test_names_that_are_not_utf_8_are_found_and_can_be_opened(tmp_path: Path, prefix: str, name: str):
    _touch(tmp_path, name)
    found = get_latest_file(tmp_path, prefix)
    assert os.fsencode(found) == os.fsencode(tmp_path / name)
    assert os.path.isfile(found)


@pytest.mark.parametrize(
    "name", ["x[bold]_1.pt", "[red]_1.pt", "two\nlines_1.pt", "\x1b[31m_1.pt", "a_b.c_1.pt"]
)
def test_prefixes_with_markup_or_controls_are_matched_as_they_are(tmp_path: Path, name: str):
    _touch(tmp_path, name, "y_2.pt")
    assert _latest(tmp_path, name.rpartition("_")[0]) == name


@pytest.mark.parametrize("folder", ["empty", "missing", "missing/below"])
def test_where_there_is_nothing_the_answer_is_empty_and_told_at_level_info(
    tmp_path: Path, folder: str, caplog
):
    (tmp_path / "empty").mkdir()
    logger = logging.getLogger("marlin_ckpt.test_catalog")
    with caplog.at_level(logging.INFO):
        assert get_latest_file(tmp_path / folder, "model", logger=logger) == ""
    assert [(record.name, record.levelname) for record in caplog.records] == [(logger.name, "INFO")]
    assert str(tmp_path / folder) in caplog.text


def test_a_file_in_the_place_of_the_directory_is_an_error_and_not_an_empty_answer(tmp_path: Path):
    _touch(tmp_path, "model_1.pt")
    with pytest.raises(StorageError, match=r"Not a directory: .*model_1\.pt"):
        get_latest_file(tmp_path / "model_1.pt", "model")


def test_a_folder_that_cannot_be_read_is_told_and_the_others_are_searched(caplog):
    # Root may read everything, so the folder is made unreadable by a path longer than the kernel takes.
    with tempfile.TemporaryDirectory() as name:
        _touch(Path(name), "model_1.pt")
        make_deep(name, "d" * 250, 20, "model_2.pt")
        assert _latest(Path(name)) == "model_1.pt"
    assert "cannot read the directory: File name too long" in caplog.text


def test_the_checkpointers_static_method_finds_the_same_file(tmp_path: Path):
    _touch(tmp_path, "net_2.tar", "net_10.tar", "net_11.pt")
    assert DefaultCheckpointer.get_latest_file(str(tmp_path), "net", "tar") == str(tmp_path / "net_10.tar")


def test_found_files_come_in_order_of_their_index_and_those_without_one_last(tmp_path: Path):
    _touch(
        tmp_path, "z.pt", "model_10.pt", "model_9.pt", "model_model_9.pt", "a.pt", "sub/model_1.pt", "n.txt"
    )
    names = [os.path.basename(entry.path) for entry in catalog.find(tmp_path)]
    assert names == ["model_9.pt", "model_model_9.pt", "model_10.pt", "a.pt", "z.pt"]
    deep = [entry.index for entry in catalog.find(tmp_path, prefix="model", recursive=True)]
    assert deep == [1, 9, 9, 10]


def test_finding_in_a_missing_directory_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(CheckpointNotFoundError, match="no such directory") as caught:
        catalog.find(tmp_path / "gone")
    assert caught.value.where == str(tmp_path / "gone")


def test_the_model_file_of_a_longer_prefix_is_never_the_latest(tmp_path):
    (tmp_path / "model_big_model_9.pt").touch()
    assert get_latest_file(tmp_path, "model") == ""
