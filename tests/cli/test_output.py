"""One module prints, and every way to start the command starts the same command."""

from __future__ import annotations

import ast
import io
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from marlin_ckpt.cli import output
from marlin_ckpt.cli.schemas import layout
from marlin_ckpt.version import __version__

# A process of `prove-resume` has no command line around it: its parent reads what it writes. A failed save
# in the background makes the last flush of stderr fail, and prints nothing. What a module prints at other
# ranks than the first goes to their logs.
_PRINTS = ("cli/output.py", "cli/ranks/printing.py", "saving/background.py")
_STREAMS = {"stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__"}
_PRINTERS = {"print", "input", "echo", "secho", "confirm", "prompt"}  # Python's, and those of Typer


def printing(path: Path) -> list[int]:
    """The lines of a module on which it prints, asks, or takes a stream of the process."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(value=ast.Name(id="sys"), attr=name) if name in _STREAMS:
                lines.append(node.lineno)
            case ast.ImportFrom(module="sys", names=names) if {one.name for one in names} & _STREAMS:
                lines.append(node.lineno)
            case ast.Call(func=ast.Name(id=name)) if name in _PRINTERS:
                lines.append(node.lineno)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="typer"), attr=name)) if name in _PRINTERS:
                lines.append(node.lineno)
    return lines


def test_nothing_but_the_output_module_prints(repository):
    package = repository / "marlin_ckpt"
    found = {path.relative_to(package).as_posix(): printing(path) for path in package.rglob("*.py")}
    assert len(found) > 100
    assert {name for name, lines in found.items() if lines} == set(_PRINTS)


@pytest.mark.parametrize(
    "line",
    ["print('x')", "sys.stdout.write('x')", "from sys import stderr", "typer.echo('x')", "input('really?')"],
)
def test_each_way_to_print_is_found(tmp_path, line):
    (tmp_path / "module.py").write_text(f"import sys, typer\n{line}\n")
    assert printing(tmp_path / "module.py") == [2]


def test_python_m_starts_the_command(repository):
    ended = subprocess.run(
        [sys.executable, "-m", "marlin_ckpt", "--version"],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"marlin-ckpt {__version__}\n", "")


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("kind", "printed"),
    [(io.TextIOWrapper, b"run\xff\x1b[2J/a.pt\n"), (_Terminal, b"run\\xff\\x1b[2J/a.pt\n")],
    ids=["pipe", "terminal"],
)
def test_a_path_is_bytes_in_a_pipe_and_harmless_text_on_a_terminal(monkeypatch, kind, printed):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", kind(written, encoding="utf-8"))
    output.path(os.fsdecode(b"run\xff\x1b[2J/a.pt"))
    sys.stdout.flush()
    assert written.getvalue() == printed


def test_a_path_is_harmless_text_where_stdout_takes_no_bytes(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    output.path("a\x1b.pt")
    assert stream.getvalue() == "a\\x1b.pt\n"


def test_a_path_comes_after_what_was_printed_before_it(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8"))
    output.data("first")
    output.path("second")
    sys.stdout.flush()
    assert written.getvalue() == b"first\nsecond\n"


def test_a_document_has_a_line_for_each_key_and_for_each_list_of_plain_values():
    value = {
        "rows": [[1, 0.5, None, True, "\u00e9\n"], (math.nan, -math.inf)],
        "one": {"a": [], "b": {}, "c": math.inf},
        "some": [{"x": 1}, 2],
    }
    assert layout.text_of(value).splitlines() == [
        "{",
        '  "rows": [',
        '    [1, 0.5, null, true, "\\u00e9\\n"],',
        '    ["nan", "-inf"]',
        "  ],",
        '  "one": {',
        '    "a": [],',
        '    "b": {},',
        '    "c": "inf"',
        "  },",
        '  "some": [',
        "    {",
        '      "x": 1',
        "    },",
        "    2",
        "  ]",
        "}",
    ]
