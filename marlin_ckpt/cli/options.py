"""Makes options, and has those that several commands share, so that each means one thing everywhere."""

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from marlin_ckpt import urls
from marlin_ckpt.fields import extension_fault, name_part_fault, size_of


def option(name: str, metavar: str, text: str, **how: Any) -> Any:
    """An option with a value.

    Args:
        name: with its dashes.
        metavar: stands for the value in the help.
        text: of the help.
        how: further arguments of `typer.Option`.
    """
    return typer.Option(name, metavar=metavar, help=text, **how)


def flag(name: str, text: str, short: str | None = None) -> Any:
    """An option without a value.

    Args:
        name: with its dashes.
        text: of the help.
        short: its name of one letter, with its dash.
    """
    return typer.Option(*filter(None, (name, short)), help=text)


def argument(metavar: str, text: str, *, on_disk: bool = False) -> Any:
    """An argument without a name: a path or a URL, or several.

    Args:
        metavar: as of `option`.
        text: as of `option`.
        on_disk: no URL.
    """
    if on_disk:
        return typer.Argument(metavar=metavar, help=text, callback=check_on_disk)
    return typer.Argument(metavar=metavar, help=text, callback=check_places, autocompletion=_complete_place)


def place(*names: str, metavar: str, text: str) -> Any:
    """An option whose value is a path or a URL.

    Args:
        names: with their dashes.
        metavar: as of `option`.
        text: as of `option`.
    """
    return typer.Option(
        *names, metavar=metavar, help=text, callback=check_places, autocompletion=_complete_place
    )


def _complete_place(incomplete: str) -> list[str]:
    from marlin_ckpt.cli import completion  # which no command needs

    return completion.complete_place(incomplete)


def check_places(value: Any) -> Any:
    """Refuses URLs that lead nowhere, without repeating what may be a password; takes any number of paths."""
    for one in value if isinstance(value, list) else [value]:
        if one is not None and (fault := urls.fault(one)):
            raise typer.BadParameter(fault)
    return value


def check_on_disk(value: str | None) -> str | None:
    """Refuses URLs where only a disk will do."""
    if urls.is_url(value):
        raise typer.BadParameter("an object store will not do here: name a directory or a file on a disk")
    check_places(value)
    return value


def read_by(read: Callable[[str], float]) -> Callable[[str | None], str | None]:
    """Makes a callback that refuses a value that `read` cannot read, with the message of its ValueError."""

    def check(value: str | None) -> str | None:
        try:
            _ = value is None or read(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        return value

    return check


def since(noun: str) -> Any:
    """The option `--since`, whose value is in seconds since 1970; the noun is what it chooses."""
    return option("--since", "T", f"Only {noun} of the last 12h or 7d, or since a date.", parser=_moment_s)


def _moment_s(text: str) -> float:
    from marlin_ckpt.operations.listing.wanted import moment_s

    try:
        return moment_s(text, now_s=time.time())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _without_fault(fault_of: Callable[[str], str]) -> Callable[[str | None], str | None]:
    def check(value: str | None) -> str | None:
        if value is not None and (fault := fault_of(value)):
            raise typer.BadParameter(fault)
        return value

    return check


check_extension, check_prefix = _without_fault(extension_fault), _without_fault(name_part_fault)
Directory = Annotated[str, argument("DIR", "The directory of checkpoints.")]
Extension = Annotated[
    str, option("--ext", "E", "The files' extension, without a dot.", callback=check_extension)
]
AnyExtension = Annotated[
    str | None,
    option("--ext", "E", "The files' extension, without a dot; else pt.", callback=check_extension),
]
UsualExtensions = Annotated[
    str | None,
    option(
        "--ext",
        "E",
        "The files' extension, without a dot; else all usual ones.",
        callback=check_extension,
    ),
]
Prefix = Annotated[
    str | None,
    option("--prefix", "P", "Only names {P}_{index} and {P}_model_{index}.", callback=check_prefix),
]
Recursive = Annotated[bool, flag("--recursive", "Look in sub-directories too.")]
Json = Annotated[bool, flag("--json", "Print one JSON document.")]
Output = Annotated[
    str,
    place(
        "--output", "-o", metavar="OUT", text="A new file (.safetensors, .pt, .pth, .bin), or a new folder/."
    ),
]
ShardSize = Annotated[
    str | None,
    option(
        "--shard-size",
        "SIZE",
        "Write a folder of Hugging Face shards of SIZE, as 5GB.",
        callback=read_by(size_of),
    ),
]
State = Annotated[str | None, option("--state", "NAME", "The state to take; else the module's.")]
StripPrefix = Annotated[
    str, option("--strip-prefix", "P", "Take only tensors whose names begin with P, and remove P.")
]
Dtype = Annotated[str | None, option("--dtype", "D", "Round floating-point tensors to bf16, fp16 or fp32.")]
Force = Annotated[bool, flag("--force", "Replace the output if it exists.")]
