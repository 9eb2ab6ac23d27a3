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
        typer.Option(
            "--verify", help="With rules: which kept files are read in full before any file is removed."
        ),
    ] = "newest",
    remove_needed: Annotated[
        bool,
        flag(
            "--remove-needed",
            "With rules: also what another tool's own files still need, such as the best of a Trainer.",
        ),
    ] = False,
    to_trash: Annotated[
        bool, flag("--to-trash", "Move files into .trash in the directory instead of removing them.")
    ] = False,
    undo: Annotated[bool, flag("--undo", "Bring back what --to-trash moved last.")] = False,
    empty_trash: Annotated[bool, flag("--empty-trash", "Remove for good what is in .trash.")] = False,
    dry_run: Annotated[bool, flag("--dry-run", "Print what would be removed, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask on a terminal.")] = False,
    json: Json = False,
) -> int:
    """Remove checkpoints, by rules or all of them.

    A checkpoint stays if any rule keeps it. Rules are applied to each run by itself, and the newest intact
    checkpoint of a run always stays. Without a rule all regular files with the extension are removed.
    Half-written files of runs that have ended are always removed. Symbolic links are not followed. Folders of
    other tools go by rules alone, each as a whole; incomplete ones stay, and so does what their tool still
    needs.
    """
    from marlin_ckpt.cli.views import cleaning
    from marlin_ckpt.cli.views.removals import How
    from marlin_ckpt.directory import removing
    from marlin_ckpt.directory.others import whole
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
    if given is None and (run is not None or verify != "newest" or remove_needed):
        raise typer.BadParameter(
            "--run and --verify go with a rule, such as --keep-last 3; so does --remove-needed"
        )
    if undo + empty_trash + to_trash > 1 or ((undo or empty_trash) and given is not None):
        raise typer.BadParameter("--undo and --empty-trash go alone, each with the directory")
    how = How(directory, to_trash=to_trash, dry_run=dry_run, asks=not (yes or dry_run), json=json)
    cleaning.say_when_stopped(how, undoes=undo)
    if undo:
        return cleaning.undo(how)
    if empty_trash:
        return cleaning.empty_trash(how)
    folders = whole.folders_in(directory, prefix=prefix, recursive=recursive)
    if given is None:
        cleaning.tell_of_folders(folders)
        files = removing.plan_cleaning(directory, prefix=prefix, extension=ext, recursive=recursive)
        code = cleaning.remove(how, files)
        if not (files.removals or json):
            cleaning.tell_of_names_like(directory)
        return code
    plan = Keeping().plan(
        directory,
        given,
        now_s=time.time(),
        prefix=prefix,
        extension=ext,
        run_id=run,
        recursive=recursive,
        verify=verify,
        others="all" if remove_needed else "kept where needed",
    )
    rest = removing.plan_sweeping(directory, recursive=recursive)
    code = cleaning.retain(how, plan, rest, given, run)
    if not (plan.decisions or json):
        cleaning.tell_of_more(directory, prefix, ext, recursive=recursive)
        cleaning.tell_of_names_like(directory)
    return code
