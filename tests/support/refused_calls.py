"""Refuses one call of the operating system after the other that the package makes, wherever it makes it."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

NAMES = [
    "access", "close", "dup", "fchmod", "fstat", "fsync", "ftruncate", "getcwd", "link", "lseek",
    "listdir", "lstat", "mkdir", "open", "posix_fadvise", "pread", "preadv", "pwrite", "read", "readlink",
    "rename", "rmdir", "scandir", "stat", "statvfs", "unlink", "write",
]  # fmt: skip
_MOST_CALLS = 1000


class Refusal:
    """Has one of the calls fail, by its number."""

    def __init__(self, number: int, code: int, *, lasts: bool) -> None:
        self.refused = ""
        self.calls = 0
        self._number, self._code, self._lasts = number, code, lasts

    def put_in(self, patch: pytest.MonkeyPatch) -> None:
        for name in NAMES:
            patch.setattr(os, name, self._stand_in(name, getattr(os, name)))

    def _stand_in(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if not (where := place()):
                return real(*args, **options)
            number, self.calls = self.calls, self.calls + 1
            if number < self._number or (number > self._number and not self._lasts):
                return real(*args, **options)
            self.refused = self.refused or f"{name} in {where}"
            if name == "close":  # Linux closes a descriptor even when it reports an error
                real(*args, **options)
            raise OSError(self._code, os.strerror(self._code))

        return call


def place() -> str:
    """Where in the package a call comes from, also by way of a module of Python's; "" for others."""
    frame = sys._getframe(2)
    while frame is not None:
        if f"{os.sep}marlin_ckpt{os.sep}" in frame.f_code.co_filename:
            return f"{os.path.basename(frame.f_code.co_filename)}, {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


def refusals(code: int, *, lasts: bool = False) -> Iterator[Refusal]:
    """Refuses the first call, then the second, ... until there is none left; each is put in by the caller."""
    for number in itertools.count():
        one = Refusal(number, code, lasts=lasts)
        yield one
        if one.calls <= number:
            return
        assert number < _MOST_CALLS
