"""A real terminal for the command: a pseudo-terminal of the kernel's."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import warm
from tests.support.folders import REPOSITORY

# Takes the terminal over, so that its Ctrl-C reaches the command as it would from a shell.
_COMMAND = """
import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
from marlin_ckpt.cli.main import main
sys.exit(main())
"""
# What rich may send: styles, and for the progress line the cursor's moves.
STYLE = rb"\x1b\[[0-9;]*m"
MOVE = rb"\x1b\[\?25[lh]|\x1b\[[0-9]*[AK]|\x1b\[2K"
PATIENCE_S = 30
# What is typed once something is shown, or a function that does something then, and gives what is typed.
Answers = dict[bytes, bytes | Callable[[], bytes]]
QUESTION = b"? [y/N]"


def run_on_terminal(
    directory: Path,
    *arguments: str | Path,
    columns: int = 80,
    answers: Answers | None = None,
    variables: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    """Runs the command on a terminal; types the answer once the question stands there."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "PYTHONPATH": os.fspath(REPOSITORY), "TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        environment.pop(name, None)
    environment |= variables or {}
    with warm.Popen(
        [sys.executable, "-c", _COMMAND, *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        cwd=directory,
        env=environment,
    ) as child:
        os.close(terminal)
        try:
            shown = _converse(master, child.pid, dict(answers or {}))
        finally:
            os.close(master)
            if sys.exc_info()[0] is not None:
                child.kill()
    return child.returncode, shown.replace(b"\r\n", b"\n")


def _converse(master: int, pid: int, answers: Answers) -> bytes:
    shown = b""
    while select.select([master], [], [], PATIENCE_S)[0]:
        try:
            shown += os.read(master, 1 << 16)
        except OSError:  # EIO: the last process on the terminal has ended
            return shown
        for question in [one for one in answers if one in shown]:
            if question == QUESTION:
                _wait_until_it_listens(pid)
            answer = answers.pop(question)
            os.write(master, answer() if callable(answer) else answer)
    return pytest.fail(f"nothing more was shown: {shown!r}")


def _wait_until_it_listens(pid: int) -> None:
    """Python serves a signal that comes just before it starts to read only after it has read a line."""
    status = Path(f"/proc/{pid}/stat")
    while status.read_text().rpartition(")")[2].split()[0] != "S":
        os.sched_yield()


def text_of(shown: bytes) -> str:
    return re.sub(STYLE, b"", shown).decode()


HOSTILE = [
    b"new\nline_1.pt", b"\x1b[31mred_2.pt", b"\x1b]52;c;ZXZpbA==\x07_3.pt", "c1\u009b31m_4.pt".encode(),
    b"raw \x9b31m_4.pt", "bidi\u202egnp\u2066_5.pt".encode(), b"[red]_6.pt", b"\xff\xfe_7.pt",
    b"tab\tdel\x7f_8.pt", "model_\u0663.pt".encode(),
]  # fmt: skip


def assert_harmless(shown: bytes) -> str:
    """That nothing of a name acts on the terminal; returns the text."""
    # Our own: a heading is bold, and some cells are coloured; no name above holds one of these sequences.
    text = re.sub(rb"\x1b\[(0|1|3[123])m", b"", shown.replace(b"\x1b[31mred", b"RED")).decode(
        "utf-8", "strict"
    )
    assert [line for line in text.split("\n") if not line.isprintable()] == []
    return text
