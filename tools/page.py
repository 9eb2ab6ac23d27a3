"""The fenced blocks of a Markdown file, and the comments in it that are for the tour; see `tools.tour`."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field

from tools.shell import Command, TourError

_STEP = re.compile(
    r"^<!-- tour: (?P<directive>\w+) ?(?P<argument>.*?) -->$"
    r"|^(?P<indent> *)```(?P<language>\w*).*\n(?P<body>(?:.*\n)*?)(?P=indent)```$",
    re.MULTILINE,
)
_DIRECTIVES = {"fresh", "run", "file", "exit", "slow"}


@dataclass
class Block:
    """A fenced block of a file.

    Attributes:
        start: where its body begins in the text.
        language: what stands behind the fence, such as `console`.
        indent: the blanks before each of its lines.
        body: its lines, without the indent.
        file: the name under which it is saved, if a comment says so.
        exit: what its last command exits with.
        slow: whether it is checked in campaigns alone.
    """

    start: int
    language: str
    indent: str
    body: str
    file: str = ""
    exit: int = 0
    slow: bool = False

    @property
    def commands(self) -> list[Command]:
        """The commands of a console block, each with what the block shows as its output."""
        commands: list[Command] = []
        for line in self.body.splitlines():
            if line.startswith("$ "):
                commands.append(Command(line.removeprefix("$ ")))
            elif not commands:
                raise TourError(f"a console block begins with a command, not with: {line}")
            elif line.startswith("> ") and not commands[-1].shown:
                commands[-1].text += "\n" + line.removeprefix("> ")
            else:
                commands[-1].shown.append(line)
        for command, following in itertools.pairwise(commands):
            command.exits = None if following.text.startswith("echo $?") else 0
        commands[-1].exits = self.exit
        return commands


@dataclass
class Page:
    """What the tour does in a file, in order.

    Attributes:
        text: the text of the file.
        steps: blocks, and commands that are run and not shown.
        fresh: whether it starts with `configs/` alone.
    """

    text: str
    steps: list[Block | str] = field(default_factory=list)
    fresh: bool = False

    @property
    def consoles(self) -> list[Block]:
        """Its console blocks."""
        return [step for step in self.steps if isinstance(step, Block) and step.language == "console"]


def read(text: str) -> Page:
    """Finds the blocks of a file and the comments that are for the tour.

    Args:
        text: the text of the file.

    Returns:
        The page.

    Raises:
        TourError: a comment is not one of those that the tour knows.
    """
    page, options = Page(text), dict[str, str]()
    for match in _STEP.finditer(text):
        directive, indent = match["directive"], match["indent"]
        if directive is None:
            body = "".join(line.removeprefix(indent) for line in match["body"].splitlines(keepends=True))
            page.steps.append(
                Block(
                    start=match.start("body"),
                    language=match["language"],
                    indent=indent,
                    body=body,
                    file=options.get("file", ""),
                    exit=int(options.get("exit", 0)),
                    slow="slow" in options,
                )
            )
            options.clear()
        elif directive not in _DIRECTIVES:
            raise TourError(f"unknown: {match[0]}")
        elif directive == "fresh":
            page.fresh = True
        elif directive == "run":
            page.steps.append(match["argument"])
        else:
            options[directive] = match["argument"]
    return page
