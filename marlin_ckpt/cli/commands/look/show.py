"""`marlin-ckpt show`."""

from typing import Annotated, Literal

import typer

from marlin_ckpt.cli import output
from marlin_ckpt.cli.options import Json, argument, option

EXAMPLE = "Example: marlin-ckpt show model_7.pt --tensors '*.weight' --sort size"


def show(
    file: Annotated[str, argument("FILE", "A checkpoint, or weights of another tool; - is standard input.")],
    tensors: Annotated[
        str | None, option("--tensors", "PATTERN", "List the tensors whose names match.")
    ] = None,
    stats: Annotated[
        str | None, option("--stats", "PATTERN", "Compute statistics of the tensors whose names match.")
    ] = None,
    depth: Annotated[int | None, option("--depth", "N", "Levels of the tree to show.", min=1)] = None,
    sort: Annotated[
        Literal["order", "name", "size"],
        typer.Option("--sort", help="By the file's order, name, or size, the largest first."),
    ] = "order",
    json: Json = False,
) -> None:
    """Show what a file holds, without loading it.

    Prints its origin, its tensors as a tree, its optimizers, and what loading it would import. Only the
    structure is read and no code of the file is run. --stats reads values and prints the smallest, the
    largest, the mean, the standard deviation, the L2 norm and a histogram of the finite ones, and how many
    are NaN or infinite.
    """
    from marlin_ckpt.cli.views.show import contents as view
    from marlin_ckpt.cli.views.show import tensors as tensors_view
    from marlin_ckpt.operations import one
    from marlin_ckpt.operations.selection import Order, matching

    order, figures = Order(sort), None
    if stats is None:
        found = one.read(file)
    else:
        from marlin_ckpt.formats.values.distribution import checked_distributions

        with one.opened(file) as checked:
            found = checked.contents
            figures = list(checked_distributions(checked, matching(found, stats, order)))
    listed = matching(found, tensors, order)
    if json:
        output.document(view.document(found) | tensors_view.document(listed, figures))
    elif figures is not None:
        tensors_view.show_statistics(figures)
    elif tensors is not None:
        tensors_view.show(listed)
    else:
        view.show(found, depth, order)
    if found.gaps and not json:
        from marlin_ckpt.cli.views import verdicts
        from marlin_ckpt.operations.rescue.remedies import remedy

        verdicts.hint(remedy(file))
