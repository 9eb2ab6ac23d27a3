"""The options that several commands share, so that each means one thing everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from marlin_ckpt.fields import extension_fault, name_part_fault


def read_by(read: Callable[[str], float]) -> Callable[[str | None], str | None]:
    """Makes a callback that refuses a value that `read` cannot read, with the message of its ValueError."""

    def check(value: str | None) -> str | None:
        try:
            _ = value is None or read(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        return value

    return check


def _without_fault(fault_of: Callable[[str], str]) -> Callable[[str | None], str | None]:
    def check(value: str | None) -> str | None:
        if value is not None and (fault := fault_of(value)):
            raise typer.BadParameter(fault)
        return value

    return check


check_extension, check_prefix = _without_fault(extension_fault), _without_fault(name_part_fault)
Directory = Annotated[str, typer.Argument(metavar="DIR", help="The directory of checkpoints.")]
Extension = Annotated[
    str,
    typer.Option(
        "--ext",
        metavar="E",
        callback=check_extension,
        help="The extension of the files, without its dot.",
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        metavar="P",
        callback=check_prefix,
        help="Only names {P}_{index} and {P}_model_{index}.",
    ),
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Look in sub-directories too.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Output = Annotated[
    str,
    typer.Option("--output", "-o", metavar="OUT", help="A new file: .safetensors, or .pt, .pth or .bin."),
]
State = Annotated[
    str | None,
    typer.Option("--state", metavar="NAME", help="The state to take; without it the module's."),
]
StripPrefix = Annotated[
    str,
    typer.Option("--strip-prefix", metavar="P", help="Only names that begin with P, which is removed."),
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", metavar="D", help="Round floating-point tensors to bf16, fp16 or fp32."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]
