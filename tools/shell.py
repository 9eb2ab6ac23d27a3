"""A bash that runs one command after another, and gives back what each prints."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

REPOSITORY = Path(__file__).parent.parent

# Runs each command that comes in through a pipe, and ends its output with the mark and the exit code.
# `(exit N)` gives the code of the command before to one that looks at `$?`. The trap keeps this bash alive
# when a command is interrupted; commands themselves do not inherit it.
_LOOP = r"""
trap : INT
status=0
while IFS= read -r -d '' command <&$COMMANDS; do
    (exit $status)
    eval "$command"
    status=$?
    printf '%s %d\n' "$MARK" $status
done
"""

_LIMIT_S = 300.0
# Where a process runs is no page's business.
_HERE = re.compile(rf"(?<= on ){re.escape(socket.gethostname())}\b")
_DIED = re.compile(r"^\S*bash: line \d+: +\d+ Killed\b.*$")  # a terminal shows the one word


class TourError(Exception):
    """A command of the documentation does not do what the documentation says."""


@dataclass
class Command:
    """A command, and what is shown of it.

    Attributes:
        text: what bash is to run.
        exits: the code that it has to exit with; None: any.
        shown: the lines that it is said to print.
    """

    text: str
    exits: int | None = 0
    shown: list[str] = field(default_factory=list)

    @property
    def signal(self) -> tuple[int, str] | None:
        """After how many lines it is sent a signal, and the line that stands for it; None: it is not."""
        return next(((at, line) for at, line in enumerate(self.shown) if line in ("^C", "Killed")), None)


@dataclass(frozen=True)
class StandIns:
    """Commands that do what those of the environment do, and start faster; they are not used to be killed.

    Attributes:
        directory: where they are.
        descriptors: what they inherit.
    """

    directory: Path
    descriptors: tuple[int, ...] = ()


class Shell:
    """One bash in a directory, with the commands of this Python's environment first on its path."""

    def __init__(self, directory: Path, *, small: bool = False, stand_ins: StandIns | None = None) -> None:
        """Starts it.

        Args:
            directory: where it starts.
            small: with one thread for torch, which is quicker where models are small and cores are shared.
            stand_ins: commands that take the place of those of the environment.
        """
        self._path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._stand_ins = stand_ins
        self._mark = secrets.token_hex(16)
        commands, self._commands = os.pipe()
        environment = {
            **os.environ,
            "PATH": f"{stand_ins.directory}:{self._path}" if stand_ins else self._path,
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",  # stdout and stderr in the order of a terminal
            "COLUMNS": "120",
            "LC_ALL": "C.UTF-8",
            "COMMANDS": str(commands),
            "MARK": self._mark,
            **({"OMP_NUM_THREADS": "1"} if small else {}),
        }
        self._bash = subprocess.Popen(  # noqa: S603 - the commands of the documentation itself
            ["bash", "--noprofile", "--norc", "-c", _LOOP],  # noqa: S607 - the one of the path, as a reader has it
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[commands, *(stand_ins.descriptors if stand_ins else ())],
            start_new_session=True,
        )
        os.close(commands)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._commands)
        with contextlib.suppress(ProcessLookupError):  # what is left of the page's background jobs
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
        assert self._bash.stdout
        self._bash.stdout.close()

    def run(self, command: Command) -> list[str]:
        """Runs a command, and interrupts or kills it where its output is said to show that.

        Args:
            command: the command.

        Returns:
            The lines that it has printed.

        Raises:
            TourError: it exits with another code than it should, does not end, or ends the shell.
        """
        told = command.signal
        killed = told is not None and told[1] == "Killed"
        before = f"PATH={shlex.quote(self._path)} " if killed and self._stand_ins else ""
        os.write(self._commands, (before + command.text).encode() + b"\0")
        lines: list[str] = []
        limit = time.monotonic() + _LIMIT_S
        while self._mark not in (line := self._line(limit, command, lines)):
            if _DIED.match(line):
                line = "Killed"
            elif told and killed and len(lines) >= told[0]:
                continue  # printed before the signal came
            lines.append(line)
            if told and len(lines) == told[0]:
                self._send(told[1])
                lines += [told[1]] * (told[1] == "^C")
        last, code = line.split(self._mark)  # the last line may have no end of its own
        lines += [last] if last else []
        if told and told[1] not in lines:
            raise TourError(f"{command.text}: ended before {told[1]}, after:\n" + "\n".join(lines))
        expected = 128 + signal.SIGKILL if killed else command.exits
        if expected is not None and int(code) != expected:
            raise TourError(f"{command.text}: exit {int(code)}, not {expected}:\n" + "\n".join(lines))
        return lines

    def _line(self, limit: float, command: Command, lines: list[str]) -> str:
        """The next line of what is printed, which is the end of a command's output if it has the mark."""
        assert self._bash.stdout
        line = b""
        while not line.endswith(b"\n"):  # one byte at a time: what is buffered would hide from select
            left = limit - time.monotonic()
            if left <= 0 or not select.select([self._bash.stdout], [], [], left)[0]:
                raise TourError(f"{command.text}: no end after {_LIMIT_S:g} s:\n" + "\n".join(lines))
            byte = os.read(self._bash.stdout.fileno(), 1)
            if not byte:
                raise TourError(f"{command.text}: has ended the shell:\n" + "\n".join(lines))
            line += byte
        return _HERE.sub("node1", line.decode(errors="replace").rstrip("\n"))

    def _send(self, told: str) -> None:
        """Interrupts the group as a terminal does, or kills the command that bash waits for."""
        if told == "^C":
            os.killpg(self._bash.pid, signal.SIGINT)
            return
        children = Path(f"/proc/{self._bash.pid}/task/{self._bash.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
