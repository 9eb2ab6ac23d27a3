"""Damages checkpoints of other tools, one file at a time, and puts them back: what does `verify` say?"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from marlin_ckpt.cli.main import main
from tests.support.foreign.made import Made

_LEAST = "by its last byte"
_CUTS = {"to half": 0.5, "to nothing": 0.0, _LEAST: 1.0}
_FOUND_BAD = (3, 4)  # 4: what is left is no checkpoint at all
_NUMBER = re.compile(r"\d+")


class Said(NamedTuple):
    """What `verify` said of a damaged checkpoint.

    Attributes:
        file: that was damaged.
        how: it was.
        code: that the command exited with.
        text: that it printed.
    """

    file: str
    how: str
    code: int
    text: str

    @property
    def is_noticed(self) -> bool:
        """Whether the damage was found."""
        return self.code in _FOUND_BAD


def said_by(*arguments: object) -> tuple[int, str]:
    """The exit code of a command in this process, and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main([str(one) for one in arguments])
    return code, printed.getvalue()


def without_each(made: Made) -> Iterator[str]:
    """Takes away each file in turn, and gives its name while it is gone; of a link, not what it leads to."""
    aside = made.path.parent / "set aside"
    for name in made.files if made.path.is_dir() else ():
        path = made.path / name
        path.rename(aside)
        yield name
        aside.rename(path)


def removed(made: Made) -> Iterator[Said]:
    """Each file gone."""
    return (_verified(made, name, "removed") for name in without_each(made))


def truncated(made: Made, *, in_turn: bool = False) -> Iterator[Said]:
    """Each file cut, in each way; or the files in turn, in one way each."""
    for number, name in enumerate(made.files):
        path = _place(made, name)
        data = path.read_bytes()
        for how in [list(_CUTS)[number % len(_CUTS)]] if in_turn else _CUTS:
            # Text without the end of its last line is whole.
            kept = len(data.rstrip(b"\n")) - 1 if how == _LEAST else int(len(data) * _CUTS[how])
            path.write_bytes(data[:kept])
            yield _verified(made, name, f"cut {how}")
        path.write_bytes(data)


def flipped(made: Made) -> Iterator[Said]:
    """One bit of each file flipped, in turn at its start and in its data: of JSON, in the last number."""
    for name in made.files:
        path = _place(made, name)
        data = path.read_bytes()
        digits = [match.start() for match in re.finditer(rb"\d", data)] if name.endswith(".json") else []
        for how, place in (("at its start", 0), ("in its data", (digits or [len(data) * 7 // 10])[-1])):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            yield _verified(made, name, f"a bit flipped {how}")
        path.write_bytes(data)


def swapped(made: Made) -> Iterator[Said]:
    """Each two files whose names differ in one number swapped."""
    alike = itertools.groupby(sorted(made.files, key=lambda name: (alike_names(name), name)), key=alike_names)
    for first, second in (pair for _, names in alike for pair in itertools.pairwise(names)):
        paths = _place(made, first), _place(made, second)
        contents = [path.read_bytes() for path in paths]
        if contents[0] == contents[1]:
            continue
        for path, content in zip(paths, reversed(contents), strict=True):
            path.write_bytes(content)
        yield _verified(made, first, f"swapped with {second}")
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)


def mixed(made: Made, other: Made) -> Iterator[Said]:
    """Each file that another checkpoint of the run has, too, replaced by that one's."""
    for name in sorted({*made.files} & {*other.files}) if made.path.is_dir() else ():
        path, theirs = made.path / name, (other.path / name).read_bytes()
        own = path.read_bytes()
        if own != theirs:
            path.write_bytes(theirs)
            yield _verified(made, name, "taken from another step")
            path.write_bytes(own)


def alike_names(name: str) -> str:
    """A file's name with `*` in place of its numbers."""
    return _NUMBER.sub("*", name)


def _place(made: Made, name: str) -> Path:
    return made.path if made.path.is_file() else made.path / name


def _verified(made: Made, file: str, how: str) -> Said:
    return Said(file, how, *said_by("verify", made.path))
