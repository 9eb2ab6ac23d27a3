"""`marlin-ckpt list`."""

import time
from typing import Annotated

import typer

from marlin_ckpt.cli import output
from marlin_ckpt.cli.options import (
    Directory,
    Json,
    Prefix,
    Recursive,
    UsualExtensions,
    flag,
    option,
    since,
)

EXAMPLE = "Example: marlin-ckpt list runs --recursive --best val_loss --since 7d"


def list_(
    directory: Directory,
    prefix: Prefix = None,
    ext: UsualExtensions = None,
    recursive: Recursive = False,
    run: Annotated[
        str | None, option("--run", "ID", "Only checkpoints of this run; the start of its id will do.")
    ] = None,
    sort: Annotated[str, option("--sort", "KEY", "index, age, size, name, or a metric's name.")] = "index",
    best: Annotated[
        str | None, option("--best", "METRIC[:min|max]", "Only files that have the metric, the best first.")
    ] = None,
    reverse: Annotated[bool, flag("--reverse", "Print the rows from last to first.")] = False,
    since: Annotated[float | None, since("files")] = None,
    number: Annotated[
        int | None,
        typer.Option(
            "-n",
            metavar="N",
            min=1,
            help="Only the last N, of each run with --recursive; with --best the best N.",
        ),
    ] = None,
    spark: Annotated[str | None, option("--spark", "METRIC", "Also draw a metric over the index.")] = None,
    metric: Annotated[
        list[str] | None,
        option("--metric", "NAME", "Print this metric, in place of the usual ones; may be repeated."),
    ] = None,
    follow: Annotated[
        bool, flag("--follow", "Show on a terminal what is saved meanwhile, until Ctrl-C.")
    ] = False,
    quiet: Annotated[bool, flag("--quiet", "No totals and no hints.", "-q")] = False,
    json: Json = False,
) -> None:
    """List the checkpoints of a directory.

    They are files, and folders that are one checkpoint, of whatever tool. Each line has the index (or step),
    kind, size, age (from the manifest, else the file's time) and metrics, and whether it is complete. For
    that only the structure is read; verify reads the data. The kind of another tool's folder is its layout,
    such as trainer or dcp. Where files share bytes on the disk, own is what no other file has. The newest
    checkpoint is marked with > and the best value of a metric with *. With --recursive the files are grouped
    by run. Of more than four metrics, four at most are printed: losses, and those of evaluations. Long names
    are cut on a terminal, or where COLUMNS is set. --json has all.
    """
    from marlin_ckpt.operations.listing.looking import look
    from marlin_ckpt.operations.listing.wanted import Wanted, best_by

    if follow:
        from marlin_ckpt.cli import table

        if json or spark or not table.is_terminal():
            why = "goes without --json and --spark" if json or spark else "needs a terminal"
            raise typer.BadParameter(f"{why}; `watch marlin-ckpt list DIR` needs none", param_hint="--follow")
    wanted = Wanted(
        directory=directory,
        prefix=prefix,
        extension=ext,
        recursive=recursive,
        run=run,
        since=since,
        by=sort,
        best=None if best is None else best_by(best),
        last=number,
        reverse=reverse,
        metrics=metric or (),
        drawn=spark,
    )
    if follow:
        from marlin_ckpt.cli.views.listing import following

        following.follow(wanted)
        return
    found = look(wanted)
    if json:
        from marlin_ckpt.cli.views import checkpoints

        output.document(checkpoints.document(found))
        return
    from marlin_ckpt.cli.views.listing import rows as view

    hint = view.show(found, now_s=time.time())
    if not quiet:
        view.tell(found, wanted, hint)
    if spark is not None:
        view.show_metric(found.rows, spark)
