"""The report of a directory: as a document, and as a page that is written to a file."""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import fields, is_dataclass
from typing import Any

from marlin_ckpt.cli import output
from marlin_ckpt.cli.schemas.layout import is_plain
from marlin_ckpt.cli.text import size
from marlin_ckpt.cli.views.report.parts.figures import held
from marlin_ckpt.errors import StorageError
from marlin_ckpt.escaping import escape
from marlin_ckpt.operations.report.values import Report
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.target import Target as File
from marlin_ckpt.urls import is_url

Progress = AbstractContextManager[Callable[[int], None]]
_STANDARD_OUTPUT = "-"
_MARK = "<!-- a report by marlin-ckpt, which the next one may replace -->"
_START = "<!doctype html>\n"


class Target:
    """Where a page goes.

    Args:
        path: of the file; `-` is the standard output.
        force: whether it replaces a file that is no report.

    Raises:
        StorageError: the file is there, and is no report.
    """

    def __init__(self, path: str, *, force: bool) -> None:
        self._path = path
        if path != _STANDARD_OUTPUT and not force and not _may_replace(path):
            hint = "choose another output, or replace it with --force"
            raise StorageError("would replace a file that is no report of marlin-ckpt", path, hint)

    def write(self, report: Report) -> None:
        """Makes the page of a report, and writes it whole, or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        from marlin_ckpt.cli.views.report.page import page

        text = page(report).replace(_START, f"{_START}{_MARK}\n", 1)
        if self._path == _STANDARD_OUTPUT:
            output.data(text.rstrip("\n"))
            return
        content = text.encode("utf-8", "replace")

        def fill(file: File) -> None:
            file.put(content)

        paths.publish(self._path, fill, len(content))
        found = ", ".join([*held(report.points), size(report.totals.size_bytes)])
        output.talk(f"wrote {escape(self._path)}: {found}; the page has {size(len(content))}")
        for one in report.banners:
            if one.severity != "note":
                output.talk(f"warning: {escape(one.what)}")
                if one.hint:
                    output.talk(f"hint: {escape(one.hint)}")


def _may_replace(path: str) -> bool:
    if not paths.exists(path):
        return True
    if paths.is_folder(path) or not (is_url(path) or os.path.isfile(path)):
        return False
    with paths.open_source(path) as source:
        return _MARK.encode() in source.read(0, len(_START) + len(_MARK))


def document(report: Report) -> dict[str, Any]:
    """The document of `report --json`: the attributes of a report, by their names."""
    found: dict[str, Any] = _plain(report)
    return found


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return value if is_plain(value) else [_plain(one) for one in value]
    return value
