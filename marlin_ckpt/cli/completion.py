"""Completes URLs; shows and installs completion, for the shell that calls the command or one that is named.

Typer's own options take no name: `--show-completion zsh` in bash would show bash's, and say nothing.
"""

import contextlib
import io
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import typer

from marlin_ckpt import urls
from marlin_ckpt.cli import output
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.storage.local.files import doing

_SHOW, _INSTALL = "--show-completion", "--install-completion"
_SHELLS = ("bash", "zsh", "fish")
# By bash, after a folder in a store no blank: what is in it comes next.
_END = "    return 0\n"
_NO_BLANK = "    [[ ${COMPREPLY-} == */ ]] && compopt -o nospace 2>/dev/null\n"
_MOST_S, _ONE_S = 4.0, "3s"  # that asking a store may take, and one request of it
_NAMES = {"prog_name": "marlin-ckpt", "complete_var": "_MARLIN_CKPT_COMPLETE"}


def is_asked_for(arguments: list[str]) -> bool:
    """Whether the command line is one of the two options, with the name of a shell or without."""
    return (
        len(arguments) in (1, 2)
        and arguments[0] in (_SHOW, _INSTALL)
        and arguments[-1] not in ("-h", "--help")
    )


def run(arguments: list[str]) -> None:
    """Does what such a command line asks for.

    Raises:
        BadParameter: there is no completion for the shell.
        StorageError: it cannot be installed.
    """
    # Private, but the version of Typer is bounded; `typer.completion` has them only for a context of Typer's.
    from typer._completion_shared import (
        _completion_scripts,
        _get_shell_name,
        get_completion_script,
        install,
    )

    if _NO_BLANK not in _completion_scripts["bash"]:
        _completion_scripts["bash"] = _completion_scripts["bash"].replace(_END, _NO_BLANK + _END)
    option, *named = arguments
    shell = named[0] if named else _get_shell_name()
    if shell not in _SHELLS:
        problem = f"no completion for {shell!r}" if shell else "the shell that calls it cannot be found out"
        raise typer.BadParameter(f"{problem}; name one of {', '.join(_SHELLS)}", param_hint=option)
    if option == _SHOW:
        output.data(get_completion_script(shell=shell, **_NAMES))
        return
    with doing("cannot install completion", os.path.expanduser("~")):
        _, path = install(shell=shell, **_NAMES)
    output.data(f"{shell} completion installed in {path}; it takes effect in a new shell")


def join_urls() -> None:
    """Has bash complete URLs whole, which it takes apart at their colon, where it asks for a completion.

    It does so if COMP_WORDBREAKS has a colon, as it usually has. Then it completes what follows.
    """
    if os.environ.get(_NAMES["complete_var"]) != "complete_bash":
        return
    from typer._click.shell_completion import CompletionItem, add_completion_class
    from typer._completion_classes import BashComplete

    class Joining(BashComplete):
        cut = ""  # of the word that is completed, and not to be given back

        def get_completion_args(self) -> tuple[list[str], str]:
            before, incomplete = super().get_completion_args()
            words: list[str] = []
            for word in (*before, incomplete):
                is_rest = words[-2:] == ["s3", ":"] and word.startswith("//")
                words[-2 if is_rest else len(words) :] = [f"s3:{word}" if is_rest else word]
                self.cut = "s3:" if is_rest else ""
            return words[:-1], words[-1]

        def format_completion(self, item: CompletionItem) -> str:
            return super().format_completion(item).removeprefix(self.cut)

    add_completion_class(Joining, "bash")


def complete_place(incomplete: str) -> list[str]:
    """The URLs that go on from one: of objects, and of folders with a "/" at their end.

    It asks for one listing, takes no longer than some seconds, and says nothing of what goes wrong.

    Args:
        incomplete: the beginning of a URL; a path has nothing here, so that the shell completes it.
    """
    if not urls.is_url(incomplete):
        return []
    found: list[str] = []
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(MarlinError):
            from marlin_ckpt.storage.s3.store import open_store

            def ask() -> None:
                with contextlib.suppress(Exception):
                    found.extend(_urls_like(incomplete, open_store))

            asking = threading.Thread(target=ask, daemon=True)  # a name server may take longer
            asking.start()
            asking.join(_MOST_S)
    finally:
        logging.disable(disabled)
    return list(found)


def _urls_like(start: str, open_store: Callable[..., Any]) -> list[str]:
    from marlin_ckpt.remote import RemoteArguments

    place, _, last = start.rpartition("/")
    with open_store(place, RemoteArguments(timeout=_ONE_S, give_up_after=_ONE_S)) as store:
        names = store.names_like(last)
    return [f"{place}/{one}" for one in names if last or not one.startswith(".")]
