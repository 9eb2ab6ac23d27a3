"""Shows and installs completion, for the shell that calls the command or for one that is named.

Typer's own options take no name: `--show-completion zsh` in bash would show bash's, and say nothing.
"""

import os

import typer

from marlin_ckpt.cli import output
from marlin_ckpt.storage.local.files import doing

_SHOW, _INSTALL = "--show-completion", "--install-completion"
_SHELLS = ("bash", "zsh", "fish")
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
    from typer._completion_shared import _get_shell_name, get_completion_script, install

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
