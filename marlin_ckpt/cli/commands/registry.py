"""The commands by their names; the module of each is imported when the command is asked for."""

import functools
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.main import get_command


class _Command(NamedTuple):
    """Where a command is.

    Attributes:
        module: in `commands/`.
        functions: the one that Typer makes a command of; of a group of commands those, by their names.
    """

    module: str
    functions: str | dict[str, str]


# In the order of the help.
_KNOWN = {
    "train": _Command("run.train", "train"),
    "prove-resume": _Command("run.prove", "prove_resume"),
    "advise": _Command("run.advise", "advise"),
    "init": _Command("run.init", "init"),
    "list": _Command("look.list_", "list_"),
    "latest": _Command("look.latest", "latest"),
    "log": _Command("look.log", "log"),
    "show": _Command("look.show", "show"),
    "diff": _Command("look.diff", "diff"),
    "report": _Command("look.report", "report"),
    "env": _Command("look.env", "env"),
    "verify": _Command("check.verify", "verify"),
    "salvage": _Command("check.salvage", "salvage"),
    "export": _Command("change.export", "export"),
    "average": _Command("change.average", "average"),
    "clean": _Command("change.clean", "clean"),
    "config": _Command("run.config", {"show": "show", "schema": "schema"}),
}


def groups() -> list[str]:
    """The names of the groups of commands."""
    return [name for name, one in _KNOWN.items() if not isinstance(one.functions, str)]


def names() -> list[str]:
    """The commands in the order of the help, those of a group behind all others, as in `config show`."""
    found = [name for name in _KNOWN if name not in groups()]
    return found + [f"{group} {name}" for group in groups() for name in _KNOWN[group].functions]


class CarriedError(Exception):
    """Carries an error, its argument, past Typer, which handles broken pipes and Ctrl-C in its own way."""


def _carrying(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except typer.TyperException:
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise CarriedError(error) from error

    return run


class Registry(Mapping[str, Any]):
    """The commands as Typer has them, each made when it is first asked for."""

    def __init__(self) -> None:
        """Makes none yet."""
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """The command of a name."""
        if name not in self._made:
            self._made[name] = _made(name, _KNOWN[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(_KNOWN)

    def __len__(self) -> int:
        """How many there are."""
        return len(_KNOWN)

    def __contains__(self, name: object) -> bool:
        """Whether there is a command of the name; that of `Mapping` would make it."""
        return name in _KNOWN


def _made(name: str, known: _Command) -> Any:
    module = import_module(f"marlin_ckpt.cli.commands.{known.module}")
    own = typer.Typer(
        name=name,
        help=None if isinstance(known.functions, str) else module.SUMMARY,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    if isinstance(known.functions, str):
        own.command(name, epilog=module.EXAMPLE)(_carrying(getattr(module, known.functions)))
    else:
        for within, function in known.functions.items():
            own.command(within, epilog=module.EXAMPLES[within])(_carrying(getattr(module, function)))
    return get_command(own)
