"""`marlin-ckpt list`."""

import time
from typing import Annotated

import typer

from marlin_ckpt.cli import output
from marlin_ckpt.cli.options import AnyExtension, Directory, Json, Prefix, Recursive, option

EXAMPLE = "Example: marlin-ckpt list runs --recursive --best val_loss --since 7d"


def list_(
    directory: Directory,
    prefix: Prefix = None,
    ext: AnyExtension = None,
    recursive: Recursive = False,
    sort: Annotated[str, option("--sort", "KEY", "index, age, size, name, or a metric's name.")] = "index",
    best: Annotated[
        str | None, option("--best", "METRIC[:min|max]", "Only files that have the metric, the best first.")
    ] = None,
    since: Annotated[
        str | None, option("--since", "T", "Only files of the last 12h or 7d, or since a date.")
    ] = None,
    spark: Annotated[str | None, option("--spark", "METRIC", "Also draw a metric over the index.")] = None,
    metric: Annotated[
        list[str] | None,
        option("--metric", "NAME", "Print this metric, in place of the usual ones; may be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """List the checkpoints of a directory.

    They are files, and folders that are one checkpoint, of whatever tool. Each line has the index (or step),
    kind, size, age (from the manifest, else the file's time) and metrics, and whether it is complete. For
    that only the structure is read; verify reads the data. The kind of another tool's folder is its layout,
    such as trainer or dcp. With --recursive the files are grouped by run. Of more than four metrics, four at
    most are printed: losses, and those of evaluations. --json has all.
    """
    from marlin_ckpt.cli.views import checkpoints as view
    from marlin_ckpt.directory import catalog
    from marlin_ckpt.directory.others import left_out
    from marlin_ckpt.formats.inspection import inspect, metric_names
    from marlin_ckpt.keep import unknown_metric
    from marlin_ckpt.operations import listing

    now_s = time.time()
    best_by = None if best is None else listing.best_by(best)
    try:
        since_s = None if since is None else listing.since_s(since, now_s=now_s)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from error
    everything = [
        inspect(entry)
        for entry in catalog.listed(directory, prefix=prefix, extension=ext or "pt", recursive=recursive)
    ]
    ordering = [*(best_by or ())[:1], *({sort} - {*listing.KEYS})]
    known = metric_names(everything)
    for name in (*ordering, *([spark] if spark else ()), *(metric or ())):
        if everything and name not in known:
            raise unknown_metric(name, known, directory)
    found = listing.arrange(everything, by=sort, best=best_by, since=since_s, by_run=recursive)
    if json:
        output.document(view.document(directory, found))
        return
    shown = metric or listing.usual_metrics(metric_names(found), ordering)
    view.show(found, directory, shown, now_s=now_s, by_run=recursive)
    if not metric:
        view.tell_of_more(metric_names(found), shown)
    if ext is None or not everything:
        others = left_out.options(
            directory, prefix=prefix, extension=ext or "pt", recursive=recursive, has_found=bool(everything)
        )
        if others:
            output.talk(f"hint: there are {'more' if everything else 'files'} with {' or '.join(others)}")
    if spark is not None:
        view.show_metric(found, spark)
