"""Parts of the reference that are made from the code: the commands and the keys of the YAML."""

from __future__ import annotations

import re
from pathlib import Path

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from marlin_ckpt.cli.app import app
from marlin_ckpt.cli.commands.registry import groups
from tools import keys

_ITEM = re.compile(r"^\* `(?P<term>.+?)`: (?P<text>.+)\n", re.MULTILINE)
_COMMANDS = re.compile(r"^\*\*Commands\*\*:\n\n((?:\* .*\n)+)\n", re.MULTILINE)
_SECTION = re.compile(r"^## `marlin-ckpt (.+)`\n\n(.+)$", re.MULTILINE)
_EXIT_CODES = re.compile(r"^Exit codes: .*\n\n", re.MULTILINE)
_EXAMPLE = re.compile(r"^Example: (?P<command>[^;\n]+)(?:; (?P<rest>.+))?$", re.MULTILINE)
_FACTS = {  # what Typer puts at the end of a help text
    r" +\[required\]$": " *Required.*",
    r" +\[default: (.+)\]$": r" *Default:* `\1`.",
    r" +\[x>=(\d+)\]$": r" *\1 or more.*",
}
# What is code in the prose of help texts, which have no markup of their own: options, names with an
# underscore, and keys with values.
_CODE = re.compile(r"(?<![\w`])(?:--[a-z][\w-]*|\.trash\b|[\w{}.]*[_=]+[\w{}]+(?:\.[\w{}]+)*)")


def write(directory: Path) -> None:
    """Writes each part into a directory, where the pages of `docs/` include it."""
    directory.mkdir(parents=True, exist_ok=True)
    parts = {"commands": commands(), "commands-table": command_table()}
    parts |= {f"yaml-{name}": text for name, text in keys.sections().items()}
    for name, text in parts.items():
        (directory / f"{name}.md").write_text(text, encoding="utf-8")


def command_table() -> str:
    """A table of the commands, each with its first line of help."""
    rows = []
    for name, text in _SECTION.findall(commands()):
        rows.append(f"| [`{name}`](#marlin-ckpt-{name.replace(' ', '-')}) | {text} |\n")
    return "".join(["| command | does |\n", "|---|---|\n", *rows])


def commands() -> str:
    """A section on each command: what it does, its usage, arguments, options and an example."""
    text = re.sub(r"^# .*\n", "## `marlin-ckpt`\n", _generated())
    text = _EXIT_CODES.sub("", _COMMANDS.sub("", text)).replace("\n### ", "\n## ")
    for one in groups():  # of which there is nothing to say but what their commands do
        text = re.sub(rf"^## `marlin-ckpt {one}`\n(?:(?!## ).*\n)*", "", text, flags=re.MULTILINE)
    text = text.replace("```console\n$ ", "```text\n")  # a synopsis, which nobody can type
    text = re.sub(r"(?<=\[OPTIONS\] )(.*)\{(.+?)\}", r"\1\2", text)  # {DIR}: Typer's way to say required
    text = re.sub(r"^\*\*(\w+)\*\*:\n", r"**\1**\n", text, flags=re.MULTILINE)
    text = _EXAMPLE.sub(_example, _ITEM.sub(_definition, text))
    return "\n".join(map(_marked, text.split("\n")))


def _generated() -> str:
    """What Typer's own generator writes."""
    command = get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command), name="marlin-ckpt")


def _definition(item: re.Match[str]) -> str:
    text = item["text"]
    for found, put in _FACTS.items():
        text = re.sub(found, put, text)
    return f"`{item['term']}`\n: {text}\n\n"


def _example(line: re.Match[str]) -> str:
    note = f"\n\nIt {line['rest']}" if line["rest"] else ""
    return f"**Example**\n\n```sh\n{line['command'].removesuffix('.')}\n```{note}"


def _marked(line: str) -> str:
    """A line of prose with its code marked as code; any other line as it is."""
    if line.startswith(("`", "$", "#", "marlin-ckpt", "**")):
        return line
    return re.sub(r"(?<!`)([\[\]<>])", r"\\\1", _CODE.sub(r"`\g<0>`", line))
