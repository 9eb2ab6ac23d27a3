"""`marlin-ckpt show`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from marlin_ckpt.cli import output
from marlin_ckpt.cli.options import Json

EXAMPLE = "Example: marlin-ckpt show model_7.pt --tensors '*.weight' --sort size"


class Order(StrEnum):
    """How lines are sorted."""

    ORDER = "order"
    NAME = "name"
    SIZE = "size"


def show(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A checkpoint, or weights of another tool.")],
    tensors: Annotated[
        str | None, typer.Option("--tensors", metavar="PATTERN", help="List the tensors of such names.")
    ] = None,
    stats: Annotated[
        str | None, typer.Option("--stats", metavar="PATTERN", help="Read the tensors of such names.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option("--depth", metavar="N", min=1, help="Levels of the tree to show.")
    ] = None,
    sort: Annotated[
        Order, typer.Option("--sort", help="By the file's order, name, or size, the largest first.")
    ] = Order.ORDER,
    json: Json = False,
) -> None:
    """Show what a file holds: whence it is, its tensors as a tree, optimizers, and what loading would import.

    Only the structure is read, nothing of it is run, and torch is not needed. --stats reads values: smallest,
    largest, mean, standard deviation and histogram of the finite ones, and how many are NaN or infinite.
    """
    from marlin_ckpt.cli.views import showing
    from marlin_ckpt.formats.content import outline
    from marlin_ckpt.storage.local.files import open_source

    with open_source(file) as source:
        found = outline.read_outline(source)
        listed = showing.chosen(found, tensors, sort)
        figures = None if stats is None else showing.read(source, found, showing.chosen(found, stats, sort))
    if json:
        from marlin_ckpt.cli.views import shown

        output.document(shown.document(found, listed, figures))
    elif figures is not None:
        showing.figures(figures)
    elif tensors is not None:
        showing.tensors(listed)
    else:
        showing.outline(found, depth, sort)
