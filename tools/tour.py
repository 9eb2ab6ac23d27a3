"""Runs the `console` blocks of the README and the pages, and puts in or checks the output that they show.

    python -m tools.tour                     runs all of them and writes into the files what was printed
    python -m tools.tour docs/tutorial.md    the same for the files named
    python -m tools.tour --check             writes nothing: exits with 1 where the output has another shape

Two outputs have the same shape when they differ in figures, times, ids and the widths of columns alone.

In a block, a line that begins with `$ ` is a command, lines right below it that begin with `> ` continue
it, and all others are what it prints, stdout and stderr mixed. The commands of a file are run by one bash,
from top to bottom, so that variables, `cd`, `$!` and `$?` work. Each has to exit with 0, unless
`$ echo $?` follows or a comment says otherwise. Two lines of an output do something where they stand:

- `^C` interrupts the command (SIGINT) when it has printed as many lines as are above it;
- `Killed` kills it (SIGKILL) at that point, and ends its output.

Each file has a directory of its own to run in. The one of the README holds a copy of `configs/`; that of a
page is a copy of what the README's commands have left. Comments in the files change that:

- `<!-- tour: fresh -->`        the commands of this page start with `configs/` alone
- `<!-- tour: run COMMAND -->`  this command is run here and not shown
- `<!-- tour: file NAME -->`    the block below is saved under this name
- `<!-- tour: exit N -->`       the last command of the block below exits with N
- `<!-- tour: slow -->`         the block below is checked in campaigns alone, since it takes long

The page on object storage finds an S3 server by its environment, which is started for it.

A check trains a smaller model than the one of `configs/quickstart.yaml`, since it compares no figure.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from tools.page import Page, read
from tools.shell import Command, Shell, StandIns

REPOSITORY = Path(__file__).parent.parent
SERVED = REPOSITORY / "docs" / "how-to" / "object-storage.md"

_FIGURE = r"(?:(?<![\w.])-)?(?<![\w.])[0-9][0-9.,]*(?:e[+-]?[0-9]+)?(?: (?:B|kB|MB|GB|ms|s|min|h|d))?\b\*?"


def play(
    page: Page, directory: Path, *, small: bool = False, slow: bool = True, stand_ins: StandIns | None = None
) -> str:
    """Runs what a page shows.

    Args:
        page: the page.
        directory: where its commands are run.
        small: with one thread for torch.
        slow: also the blocks that are marked so.
        stand_ins: commands that take the place of those of the environment.

    Returns:
        The text of the page with what its commands have printed.

    Raises:
        TourError: a command exits with another code than it should, or does not end.
    """
    text, end = "", 0
    with Shell(directory, small=small, stand_ins=stand_ins) as shell:
        for step in page.steps:
            if isinstance(step, str):
                shell.run(Command(step))
                continue
            if step.file:
                (directory / step.file).write_text(step.body, encoding="utf-8")
            if step.language != "console" or (step.slow and not slow):
                continue
            lines: list[str] = []
            for command in step.commands:
                first, *rest = command.text.split("\n")
                lines += ["$ " + first, *("> " + line for line in rest), *shell.run(command)]
            text += page.text[end : step.start] + "".join(
                f"{step.indent}{line}".rstrip() + "\n" for line in lines
            )
            end = step.start + page.text[step.start :].index(f"{step.indent}```")
    return text + page.text[end:]


def shape(text: str) -> list[str]:
    """What stays of an output when ids, figures, times and the widths of columns are taken out.

    Args:
        text: the output.

    Returns:
        Its lines.
    """
    text = re.sub(r"\b[0-9a-f]{12}\b|(?<=process )\d+ on [\w.-]+", "ID", text)  # of a run, or a process
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", "TIME", text)
    text = re.sub(r"(?<=\d)\+\w+", "", text)  # the build of torch: +cpu
    text = re.sub(r"(?<=  )[▁-█ ]{16}$", "HISTOGRAM", text, flags=re.MULTILINE)
    text = re.sub(_FIGURE, "N", text)
    return [" ".join(line.split()) for line in text.splitlines()]


def differences(shown: str, printed: str) -> str:
    """Compares the shapes of the console blocks of two versions of a page.

    Args:
        shown: the page as it is.
        printed: the page with what its commands have printed now.

    Returns:
        The lines that differ, as `diff` shows them; empty where none do. The order of lines is not compared,
        since tables may be sorted by figures.
    """
    pairs = zip(read(shown).consoles, read(printed).consoles, strict=True)
    return "\n".join(
        line
        for ours, theirs in pairs
        for line in difflib.unified_diff(
            sorted(shape(ours.body)), sorted(shape(theirs.body)), "shown", "printed", lineterm=""
        )
    )


def pages() -> list[Path]:
    """The files, in the order in which they are run: the README, then the pages that are written by hand.

    Returns:
        Their paths.
    """
    found = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/**/*.md"))]
    return [path for path in found if path.parent.name != "_generated"]


def furnish(directory: Path, *, small: bool) -> None:
    """Puts into a directory what the README's commands find there.

    Args:
        directory: an empty directory.
        small: with a smaller model in `configs/quickstart.yaml`.
    """
    shutil.copytree(REPOSITORY / "configs", directory / "configs")
    if small:
        config = directory / "configs" / "quickstart.yaml"
        text = config.read_text(encoding="utf-8")
        smaller = text.replace("  width: 96\n", "  width: 24\n")
        assert smaller != text
        config.write_text(smaller, encoding="utf-8")


def _played(wanted: Sequence[Path], *, small: bool) -> Iterator[tuple[Path, str, str]]:
    """Each wanted file, its text, and its text with what its commands have printed."""
    readme = REPOSITORY / "README.md"
    # The server writes there until this process has ended.
    with tempfile.TemporaryDirectory(prefix="tour-", ignore_cleanup_errors=True) as scratch:
        if SERVED in wanted:
            _serve(Path(scratch, "server"))
        furnish(fresh := Path(scratch, "fresh"), small=small)
        left = Path(shutil.copytree(fresh, Path(scratch, "readme")))
        if readme in wanted or not all(read(path.read_text(encoding="utf-8")).fresh for path in wanted):
            text = readme.read_text(encoding="utf-8")
            printed = play(read(text), left, small=small)
            if readme in wanted:
                yield readme, text, printed
        for number, path in enumerate(path for path in wanted if path != readme):
            page = read(path.read_text(encoding="utf-8"))
            directory = Path(shutil.copytree(fresh if page.fresh else left, Path(scratch, str(number))))
            yield path, page.text, play(page, directory, small=small)


def _serve(folder: Path) -> None:
    servers = import_module("tests.support.s3_servers")  # here, since it needs what the tests alone install
    os.environ.update(servers.environment(servers.shared(folder, os.getpid())))


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrites or checks the files that are named, or all of them.

    Args:
        arguments: those of the command line, unless given.

    Returns:
        1 where a check finds a difference, 0 otherwise.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.tour", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare the shapes of outputs, write nothing")
    parser.add_argument("files", nargs="*", type=Path, help="README.md or pages; all of them by default")
    options = parser.parse_args(arguments)
    wanted = [path.resolve() for path in options.files] or pages()
    wanted = [path for path in wanted if read(path.read_text(encoding="utf-8")).consoles]
    different = False
    for path, text, printed in _played(wanted, small=options.check):
        if not options.check:
            path.write_text(printed, encoding="utf-8")
        elif found := differences(text, printed):
            different = True
            sys.stdout.write(
                f"{path}: what the commands print has changed; make readme puts it in\n{found}\n"
            )
    return int(different)


if __name__ == "__main__":
    sys.exit(main())
