"""The README, the change log and the exit codes say what the code does."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from marlin_ckpt.cli.app import app
from marlin_ckpt.cli.main import main
from marlin_ckpt.version import __version__

_FENCE = re.compile(r"```(?P<language>\w+)\n(?P<body>.*?)```", re.DOTALL)


def blocks(repository: Path, language: str) -> list[str]:
    text = (repository / "README.md").read_text()
    return [match["body"] for match in _FENCE.finditer(text) if match["language"] == language]


def shape(text: str) -> list[str]:
    """What stays of an output when ids, figures, times and the widths of columns are taken out."""
    text = re.sub(r"\b[0-9a-f]{12}\b", "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", "TIME", text)
    text = re.sub(r"(?<=\d)\+\w+", "", text)  # the build of torch: +cpu
    text = re.sub(r"(?<=  )[▁-█ ]{16}$", "HISTOGRAM", text, flags=re.MULTILINE)
    text = re.sub(r"(?<![\w.])[0-9][0-9.,]*(?: (?:B|kB|MB|GB|ms|s|min|h|d))?\b", "N", text)
    return [" ".join(line.split()) for line in text.splitlines()]


def test_each_command_of_the_tour_prints_what_the_readme_shows(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    cases: Callable[[int, int], int],
) -> None:
    shutil.copy(repository / "README.md", tmp_path)
    shutil.copytree(repository / "configs", tmp_path / "configs")
    config = tmp_path / "configs" / "quickstart.yaml"
    assert "  width: 96\n" in config.read_text()
    config.write_text(config.read_text().replace("  width: 96\n", "  width: 24\n"))  # no figure is compared
    monkeypatch.chdir(tmp_path)
    tour = blocks(repository, "console")
    assert len(tour) == 14
    for block in tour:
        command, _, shown = block.partition("\n")
        name, *arguments = shlex.split(command.removeprefix("$ "))
        assert name == "marlin-ckpt"
        if arguments[0] == "prove-resume" and not cases(0, 1):  # which trains four times more
            continue
        assert main(arguments) == (1 if arguments[0] == "diff" else 0)  # what it compares differs
        out, err = capfd.readouterr()
        # The README shows stdout and stderr as a terminal mixes them; each stream keeps its own order.
        assert sorted(shape(out + err)) == sorted(shape(shown))


def test_each_python_block_of_the_readme_runs_and_saves_what_it_says(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(repository, "python"):
        exec(compile(block, "README.md", "exec"), {})
    assert sorted(path.name for path in Path("runs/a").iterdir()) == [
        f"model_{epoch}.pt" for epoch in range(5)
    ]


def test_the_readme_names_every_command(repository: Path) -> None:
    named = re.findall(r"^\| `marlin-ckpt ([\w-]+) ", (repository / "README.md").read_text(), re.MULTILINE)
    assert named == [command.name for command in app.registered_commands]


@pytest.mark.parametrize(
    "name",
    ["train", "list", "latest", "show", "verify", "salvage", "diff", "export", "average", "clean", "advise"],
)
def test_the_help_of_a_command_offers_just_the_options_that_the_readme_names(
    name: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = re.findall(
        rf"^\| `marlin-ckpt {name} (.*?)` \|", (repository / "README.md").read_text(), re.MULTILINE
    )
    assert main([name, "--help"]) == 0
    listed = re.findall(r"^  +(?:-\w, )?(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    assert set(re.findall(r"--[a-z-]+", row)) == set(listed) - {"--help"}


def test_the_change_log_has_a_section_for_what_is_not_released_and_the_version_is_semantic(
    repository: Path,
) -> None:
    text = (repository / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[Unreleased\]$", text, re.MULTILINE)
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_the_make_targets_that_the_readme_names_are_there(repository: Path) -> None:
    text = (repository / "README.md").read_text()
    named = set(re.findall(r"(?:^|`|\()make ([\w-]+)", text, re.MULTILINE))
    makefile = (repository / "Makefile").read_text()
    assert named == {"setup", "demo", "test", "test-peers", "campaign", "bench"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)
