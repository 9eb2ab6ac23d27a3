"""`marlin-ckpt report`."""

from typing import Annotated

from marlin_ckpt.cli import output, rules, stopping
from marlin_ckpt.cli.options import (
    Json,
    Prefix,
    Recursive,
    UsualExtensions,
    argument,
    flag,
    place,
)

EXAMPLE = "Example: marlin-ckpt report checkpoints -o report.html --stats"


def report(
    path: Annotated[str, argument("DIR_OR_FILE", "A directory of checkpoints, or one checkpoint.")],
    destination: Annotated[
        str,
        place("--output", "-o", metavar="OUT", text="The page to write; - is standard output."),
    ] = "report.html",
    compare: Annotated[
        str | None,
        place("--compare", metavar="DIR2", text="Show another directory, or checkpoint, beside it."),
    ] = None,
    stats: Annotated[
        bool, flag("--stats", "Read the tensors of checkpoints that have no statistics in them.")
    ] = False,
    prefix: Prefix = None,
    ext: UsualExtensions = None,
    recursive: Recursive = False,
    keep_last: rules.Last = None,
    keep_every: rules.Every = None,
    keep_best: rules.Best = None,
    keep_within: rules.Within = None,
    keep_hourly: rules.Hourly = None,
    keep_daily: rules.Daily = None,
    keep_weekly: rules.Weekly = None,
    max_total: rules.MaxTotal = None,
    force: Annotated[
        bool, flag("--force", "Replace OUT even if it is no report of an earlier time.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a page on the runs of a directory.

    The page is one HTML file that needs no network. It has metrics across resumes and removals, saves and
    failures over time, what moved in the layers, sizes, and what rules of retention would remove: those of
    the run's last start, or those that are given. Nothing is removed. It reads manifests and the history, and
    tensors only with --stats, which keeps what it finds in .marlin-ckpt for the next time. --json prints the
    data in place of the page.
    """
    from marlin_ckpt.cli.views.report import written as view
    from marlin_ckpt.operations.report.figures import cache_path
    from marlin_ckpt.operations.report.gathering import Wanted, gather

    wanted = Wanted(
        prefix=prefix,
        extension=ext,
        recursive=recursive,
        rules=rules.rules(
            keep_best,
            last=keep_last,
            every=keep_every,
            within=keep_within,
            hourly=keep_hourly,
            daily=keep_daily,
            weekly=keep_weekly,
            max_total=max_total,
        ),
        reads_tensors=stats,
    )
    target = None if json else view.Target(destination, force=force)
    if target is not None:
        stopping.writes(destination, cache_path(path) if stats else "")

    def progress(total: int) -> view.Progress:
        return output.bytes_bar(total, quiet=json)

    found = gather(path, wanted, progress, other=compare)
    if target is None:
        output.document(view.document(found))
    else:
        target.write(found)
