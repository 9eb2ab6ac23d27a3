"""`marlin-ckpt clean`."""

import time
from typing import Annotated, Literal

import typer

from marlin_ckpt.cli import rules
from marlin_ckpt.cli.options import Directory, Extension, Json, Prefix, Recursive, flag, option

EXAMPLE = "Example: marlin-ckpt clean checkpoints --keep-last 3 --keep-best val_loss:min:2 --dry-run"


def clean(
    directory: Directory,
    ext: Extension = "pt",
    prefix: Prefix = None,
    recursive: Recursive = False,
    keep_last: rules.Last = None,
    keep_every: rules.Every = None,
    keep_best: rules.Best = None,
    keep_within: rules.Within = None,
    keep_hourly: rules.Hourly = None,
    keep_daily: rules.Daily = None,
    keep_weekly: rules.Weekly = None,
    max_total: rules.MaxTotal = None,
    run: Annotated[str | None, option("--run", "ID", "With rules: only checkpoints of this run.")] = None,
    verify: Annotated[
        Literal["all", "newest", "none"],
        typer.Option("--verify", help="With rules: what is read whole before any file goes."),
    ] = "newest",
    to_trash: Annotated[bool, flag("--to-trash", "Move into .trash inside the directory instead.")] = False,
    undo: Annotated[bool, flag("--undo", "Bring back what --to-trash moved last.")] = False,
    empty_trash: Annotated[bool, flag("--empty-trash", "Remove what lies in .trash for good.")] = False,
    dry_run: Annotated[bool, flag("--dry-run", "Only say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask on a terminal.")] = False,
    json: Json = False,
) -> int:
    """Remove checkpoints, by rules or all of them.

    What any rule keeps stays. The rules are applied to each run apart; the newest intact checkpoint of a run
    stays whatever they say. Without a rule all regular files of the extension go. What dead runs left half
    written always goes. Nothing is removed through a symbolic link.
    """
    from marlin_ckpt.cli.views import cleaning
    from marlin_ckpt.cli.views.removals import How
    from marlin_ckpt.directory import removing
    from marlin_ckpt.directory.retention.plan import Keeping

    given = rules.rules(
        keep_best,
        last=keep_last,
        every=keep_every,
        within=keep_within,
        hourly=keep_hourly,
        daily=keep_daily,
        weekly=keep_weekly,
        max_total=max_total,
    )
    if given is None and (run is not None or verify != "newest"):
        raise typer.BadParameter("--run and --verify go with a rule, such as --keep-last 3")
    if undo + empty_trash + to_trash > 1 or ((undo or empty_trash) and given is not None):
        raise typer.BadParameter("--undo and --empty-trash go alone, each with the directory")
    how = How(directory, to_trash=to_trash, dry_run=dry_run, asks=not (yes or dry_run), json=json)
    if undo:
        return cleaning.undo(how)
    if empty_trash:
        return cleaning.empty_trash(how)
    if given is None:
        files = removing.plan_cleaning(directory, prefix=prefix, extension=ext, recursive=recursive)
        return cleaning.remove(how, files)
    plan = Keeping().plan(
        directory,
        given,
        now_s=time.time(),
        prefix=prefix,
        extension=ext,
        run_id=run,
        recursive=recursive,
        verify=verify,
    )
    rest = removing.plan_sweeping(directory, recursive=recursive)
    return cleaning.retain(how, plan, rest, given, run)
