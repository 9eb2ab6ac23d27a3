"""Each row of the page on exit codes says what the code does, and the help names the same codes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import marlin_ckpt
from marlin_ckpt import errors
from marlin_ckpt.cli.app import app
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory import lease
from marlin_ckpt.training.proof import proof
from marlin_ckpt.training.proof.findings import Difference, Proof
from tests.support.checkpoint_directories import filled, flip
from tests.support.folders import REPOSITORY
from tests.support.own_modules import run_of_its_own

PAGE = (REPOSITORY / "docs/reference/exit-codes.md").read_text()
_OF_SCRIPTS = {120}  # a command waits for its saves


def rows(*titles: str) -> list[list[str]]:
    """The rows of the table with these titles."""
    lines = iter(PAGE.splitlines())
    assert any([cell.strip() for cell in line.split("|")[1:-1]] == [*titles] for line in lines)
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


CODES = {int(code) for code, _ in rows("exit", "meaning")}
_ENDS = re.findall(r"`([\w-]+)` (\d+)", "\n".join(row[0] for row in rows("", "then", "a script")))
OF_COMMANDS = [(name, int(code)) for name, code in _ENDS]


def test_each_error_stands_beside_the_code_that_it_exits_with() -> None:
    listed = {
        name: int(code) for named, code in rows("error", "exit") for name in re.findall(r"`(\w+)`", named)
    }
    kinds = [getattr(marlin_ckpt, name) for name in marlin_ckpt.__all__ if name.endswith("Error")]
    assert listed == {kind.__name__: kind.exit_code for kind in kinds}


def test_a_signal_ends_a_script_with_a_code_that_is_listed() -> None:
    assert {marlin_ckpt.Preempted(number, None).code for number in (2, 15)} == {130, 143} <= CODES


def test_each_error_has_the_exit_code_that_the_tree_in_its_module_shows() -> None:
    for line in errors.__doc__.splitlines():
        if match := re.search(r"(\w+Error)\b.*exit (\d)", line):
            assert getattr(errors, match[1]).exit_code == int(match[2])


def test_the_help_names_the_codes_of_the_page_and_no_others() -> None:
    codes = {int(code) for code in re.findall(r"\b(\d+) [a-z]", app.info.epilog)}
    assert codes == CODES - _OF_SCRIPTS


@pytest.fixture
def _in_a_directory_with_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = "{epochs: 1, train_batch_size: 16, val_batch_size: 16, device: cpu}"
    run_of_its_own(tmp_path, monkeypatch, _MODULE, trainer, "{points: 60}")
    filled("saved", {1: 0.5, 2: 0.4})
    filled("bad", {1: 0.5})
    flip("bad/model_1.pt")
    Path("empty").mkdir()
    Path("blocked/model_0.pt").mkdir(parents=True)
    Path("other.pt").write_text("{}\n")
    torch.save({"a": torch.ones(2)}, "a.pt")


_MODULE = """
import os
from marlin_ckpt.training.toys.spiral import Spiral, SpiralArguments

class Own(Spiral):
    def __init__(self, points):
        super().__init__(SpiralArguments(points=points))

    def train_step(self, **given):
        exec(os.environ.get("STEP", ""))
        return super().train_step(**given)
"""


def _unremovable(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.unlink

    def unlink(path, *args, **options):
        if str(path).endswith("model_1.pt"):
            raise PermissionError(1, "Operation not permitted", path)
        real(path, *args, **options)

    monkeypatch.setattr(os, "unlink", unlink)


def _differing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Proof(3, (), (), 1, 1, 1, 1, Difference(3, "loss", "1", "2", None))
    monkeypatch.setattr(proof, "prove", lambda *_: found)


def _step(does: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setenv("STEP", does)


_TRAIN = "train --config run.yaml --quiet"
# What ends as a row of the page says: a command line, and what is to be so before.
ENDS: dict[tuple[str, int], list[tuple[str, Callable[[pytest.MonkeyPatch], None] | None]]] = {
    ("train", 0): [
        (f"{_TRAIN} --set checkpointer.save_dir=blocked --set checkpointer.on_save_error=warn", None),
        (f"{_TRAIN} --set checkpointer.save_dir=whole", None),
        (f"{_TRAIN} --set checkpointer.save_dir=whole --resume", None),
    ],
    ("train", 1): [(_TRAIN, _step("raise ValueError"))],
    ("train", 2): [
        (f"{_TRAIN} --set trainer.epochs=x", None),
        (f"{_TRAIN} --set checkpointer.save_dir=saved", None),
    ],
    ("train", 3): [(f"{_TRAIN} --resume --set checkpointer.save_dir=bad", None)],
    ("train", 4): [
        (f"{_TRAIN} --set checkpointer.load_dir=saved --set checkpointer.load_filename=x.pt", None)
    ],
    ("train", 130): [(_TRAIN, _step("os.kill(os.getpid(), 2)"))],
    ("train", 143): [(_TRAIN, _step("os.kill(os.getpid(), 15)"))],
    ("prove-resume", 3): [("prove-resume --config run.yaml --quiet", _differing)],
    ("list", 0): [("list empty", None)],
    ("list", 4): [("list nowhere", None), ("list saved --run none", None)],
    ("latest", 4): [("latest empty", None)],
    ("log", 4): [("log empty", None), ("log saved --run none", None)],
    ("verify", 3): [("verify bad", None), ("verify other.pt", None)],
    ("verify", 4): [("verify empty", None), ("verify saved empty", None)],
    ("salvage", 3): [("salvage bad/model_1.pt -o new.pt", None)],
    ("diff", 1): [("diff saved/model_1.pt saved/model_2.pt", None)],
    ("export", 1): [("export saved/model_1.pt -o a.pt", None)],
    ("average", 1): [("average saved/model_1.pt saved/model_2.pt -o a.pt", None)],
    ("clean", 1): [("clean saved --keep-last 1 --yes", _unremovable)],
    ("env", 0): [("env /proc", None)],
}


@pytest.mark.usefixtures("_in_a_directory_with_files")
@pytest.mark.parametrize("row", OF_COMMANDS, ids=lambda row: f"{row[0]} {row[1]}")
def test_a_command_ends_as_its_row_says(row: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for line, prepare in ENDS[row]:
        with monkeypatch.context() as patch:
            if prepare is not None:
                prepare(patch)
            assert main(line.split()) == row[1], line


def test_each_row_is_tried() -> None:
    assert sorted(OF_COMMANDS) == sorted(ENDS)


@pytest.mark.usefixtures("_in_a_directory_with_files")
def test_a_directory_that_another_run_saves_in_ends_with_5() -> None:
    with lease.held("out", "another"):
        assert main(_TRAIN.split()) == 5
        assert main(["clean", "out", "--yes"]) == 5


@pytest.mark.usefixtures("_in_a_directory_with_files")
def test_a_module_that_exits_gives_the_command_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEP", "raise SystemExit(7)")
    assert main(_TRAIN.split()) == 7
