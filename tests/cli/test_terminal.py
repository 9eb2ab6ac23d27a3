"""The commands on a real terminal: a pseudo-terminal of the kernel's."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.folders import REPOSITORY, visible
from tests.support.terminal import (
    HOSTILE,
    MOVE,
    QUESTION,
    STYLE,
    assert_harmless,
    run_on_terminal,
    text_of,
)


@pytest.fixture
def directory(tmp_path) -> Path:
    directory = tmp_path / "saved"
    directory.mkdir()
    for index in (1, 2):
        (directory / f"model_{index}.pt").write_bytes(b"x" * 1500)
    return directory


def test_clean_shows_what_would_go_and_asks(on_terminal, directory):
    code, shown = on_terminal("clean", "saved", answers={QUESTION: b"y\n"})
    assert (code, os.listdir(directory)) == (0, [])
    assert shown.decode().splitlines() == [
        "saved/model_1.pt  1.5 kB",
        "saved/model_2.pt  1.5 kB",
        "Remove 2 files, 3 kB? [y/N] y",
        "removed saved/model_1.pt  1.5 kB  (extension pt)",
        "removed saved/model_2.pt  1.5 kB  (extension pt)",
        "2 files in saved, freed 3 kB",
    ]


@pytest.mark.parametrize(
    "answer", [b"n\n", b"\n", b"no\n", b"what?\nn\n", b"\x04"], ids=["n", "return", "no", "other", "Ctrl-D"]
)
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["plain", "json"])
def test_any_answer_but_yes_changes_nothing(on_terminal, directory, answer, options):
    code, shown = on_terminal("clean", "saved", *options, answers={QUESTION: answer})
    assert (code, sorted(os.listdir(directory))) == (1, ["model_1.pt", "model_2.pt"])
    assert shown.endswith(b"aborted: nothing was removed\n")
    assert b"removed saved" not in shown


def test_ctrl_c_at_the_question_exits_130_and_changes_nothing(on_terminal, directory):
    code, shown = on_terminal("clean", "saved", answers={QUESTION: b"\x03"})
    assert (code, sorted(os.listdir(directory))) == (130, ["model_1.pt", "model_2.pt"])
    assert b"Traceback" not in shown


@pytest.mark.parametrize(
    ("option", "left"), [("--yes", []), ("-y", []), ("--dry-run", ["model_1.pt", "model_2.pt"])]
)
def test_nothing_is_asked_where_the_answer_is_known(on_terminal, directory, option, left):
    code, shown = on_terminal("clean", "saved", option)
    assert (code, sorted(os.listdir(directory))) == (0, left)
    assert QUESTION not in shown


def test_nothing_is_asked_where_nothing_would_go(on_terminal, tmp_path):
    (tmp_path / "empty").mkdir()
    assert on_terminal("clean", "empty") == (0, b"0 files in empty, freed 0 B\n")


def test_latest_prints_the_path_alone(on_terminal, directory):
    assert on_terminal("latest", "saved") == (0, b"saved/model_2.pt\n")


EPOCHS = 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, bytes]:
    """The directory that a training on a terminal has saved to, and what it showed."""
    directory = tmp_path_factory.mktemp("trained")
    options = ["--set", "checkpointer.save_dir=saved", "--set", f"trainer.epochs={EPOCHS}"]
    command = ["train", "--config", REPOSITORY / "configs/ci.yaml", *options]
    code, shown = run_on_terminal(directory, *command, columns=120)
    assert code == 0, shown
    return directory / "saved", shown


def test_training_shows_epoch_step_loss_speed_and_last_checkpoint(trained):
    saved, shown = trained
    text = re.sub(MOVE, b"", re.sub(STYLE, b"", shown)).decode()
    frames = [line for line in re.split(r"[\r\n]", text) if re.match(rf"epoch \d+/{EPOCHS} ", line)]
    assert frames
    whole = rf"epoch \d+/{EPOCHS} \S+ step +\d+/15 +loss \d\.\d{{4}} +[0-9.]+ steps/s +last model_\d+\.pt"
    assert any(re.match(whole, frame) for frame in frames), frames
    assert max(map(len, frames)) <= 120
    assert shown.count(b"\x1b[?25h") == shown.count(b"\x1b[?25l") == 1
    assert len(visible(saved)) == EPOCHS


def test_the_progress_line_is_gone_at_the_end_and_the_table_stands(trained):
    after = trained[1].rpartition(b"\x1b[2K")[2]
    assert b"step" not in after.partition(b"index")[0]
    heading, *rows = text_of(after).splitlines()
    files = [row.split()[-1] for row in rows if "saved/" in row]
    assert heading.split()[-1] == "file"
    assert files == [f"saved/model_{index}.pt" for index in range(EPOCHS - len(files), EPOCHS)] != []
    assert any(re.match(f"run [0-9a-f]{{12}}: {EPOCHS} epochs, {15 * EPOCHS} steps", row) for row in rows)


def test_quiet_training_shows_nothing_on_a_terminal_either(on_terminal, repository, tmp_path, cases):
    if not cases(0, 1):
        pytest.skip("--campaign runs it")
    options = ["--quiet", "--set", "checkpointer.save_dir=saved"]
    assert on_terminal("train", "--config", repository / "configs/ci.yaml", *options) == (0, b"")
    assert len(visible(tmp_path / "saved")) == 3


def test_ctrl_c_in_training_takes_the_progress_line_away_and_exits_130(on_terminal, repository, tmp_path):
    options = ["--set", "checkpointer.save_dir=saved", "--set", "trainer.epochs=2000"]
    answers = {b"saved saved/model_3.pt": b"\x03"}
    code, shown = on_terminal("train", "--config", repository / "configs/ci.yaml", *options, answers=answers)
    end = text_of(shown.rpartition(b"\x1b[2K")[2]).splitlines()
    assert code == 130
    assert shown.count(b"\x1b[?25h") == 1
    assert re.fullmatch(r"interrupted; last checkpoint: saved/model_\d+\.pt", end[-2])
    assert end[-1] == "hint: the same command with --resume continues from it"
    assert all(re.fullmatch(r"model_\d+\.pt", name) for name in visible(tmp_path / "saved"))
    assert b"Traceback" not in shown


@pytest.mark.parametrize("name", [name for name in HOSTILE if not name.startswith(b"model")])
def test_latest_escapes_a_hostile_name_on_a_terminal(on_terminal, hostile_directory, name):
    prefix = os.fsdecode(name).rpartition("_")[0]
    code, shown = on_terminal("latest", ".", f"--prefix={prefix}")
    text = assert_harmless(shown)
    assert (code, len(text.splitlines())) == (0, 1)
    assert text.startswith("./x[/")


def test_the_question_and_the_answer_of_clean_are_harmless(on_terminal, hostile_directory):
    code, shown = on_terminal("clean", "x[", answers={QUESTION: b"y\n"})
    text = assert_harmless(shown)
    assert (code, os.listdir(hostile_directory)) == (0, [])
    assert text.count(r"\x1b[31mred_2.pt") == 2
    assert "x[/]_9.pt  0 B\n" in text
