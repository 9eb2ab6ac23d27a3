"""A training run: the announcement before its first step, and the report after its last."""

from typing import Any

from marlin_ckpt.cli import output, table
from marlin_ckpt.cli.table import Column, figure
from marlin_ckpt.cli.text import count, metrics, size, some
from marlin_ckpt.cli.views.facts import facts, rounded
from marlin_ckpt.escaping import escape
from marlin_ckpt.operations.starting import Start
from marlin_ckpt.reports import SaveReport

_MOST_ROWS = 8
_COLUMNS = (
    figure("index"),
    Column("kind", rank=7),
    figure("size", 6),
    Column("metrics", least=12, cut="end", rank=5),
    Column("file", least=table.FILE_LETTERS),
)


def announce(start: Start, *, quiet: bool) -> None:
    """Prints what a run continues from, and warns of the files that it will delete or replace."""
    where = escape(start.save_dir)
    for reason in start.skipped:
        output.talk(f"warning: passed over {escape(reason)}")
    if start.resumes_from and not (start.is_bad or quiet):
        output.talk(f"resuming from {escape(start.resumes_from)}")
    if start.runs:
        saved_last = escape(start.runs[0])
        output.talk(f"warning: several runs have saved in {where}: continues {saved_last}, which saved last")
        output.talk(f"hint: to continue {some(start.runs[1:])}, move its checkpoints elsewhere")
    if start.deletes:
        output.talk(f"warning: deletes {count(len(start.deletes), 'file')} of an earlier run in {where}")
    if start.replaces:
        files = f"{count(len(start.replaces), 'file')} of an earlier run: {some(start.replaces)}"
        output.talk(f"warning: saves over {files}")
        output.talk("hint: another directory for model_state_save_dir keeps it")


def show(report: dict[str, Any]) -> None:
    """Prints what a run wrote: its last files and how many there are.

    Args:
        report: the document that `train --json` prints in its place.
    """
    files = report["files"]
    rows = []
    for one in files[-_MOST_ROWS:]:
        measured = metrics(one["metrics"] or {})
        rows.append([str(one["index"]), one["kind"], size(one["size_bytes"]), measured, escape(one["path"])])
    if rows:
        table.show(rows, _COLUMNS)
    epochs, steps = count(report["epochs"], "epoch"), count(report["global_steps"], "step")
    gone = report["removed"]
    saved = {one["path"] for one in report["saves"]}
    own = [one for one in gone if one["path"] in saved]  # the others are of the run before it was resumed
    total = sum(one["size_bytes"] for one in [*files, *own])
    wrote = f"{count(len(files) + len(own), 'file')} written, {size(total)}"
    wrote += f", {len(own)} of them removed" if own else ""
    wrote += f", {len(gone) - len(own)} earlier removed" if len(gone) > len(own) else ""
    failed = len(report["failed_saves"])
    wrote += f"; {count(failed, 'save')} failed" if failed else ""
    share = "" if report["overhead"] is None else f"; saves cost {report['overhead']:.1%} of the time"
    run_id = escape(str(report["run_id"]))  # from the file that the run continued from
    ranks = report["ranks"]
    on = f" on {ranks} ranks" if ranks > 1 else ""
    output.talk(f"run {run_id}{on}: {epochs}, {steps}, {report['seconds']:.1f} s; {wrote}{share}")


def save(one: SaveReport) -> dict[str, Any]:
    """One save as `train --json` describes it; times are in seconds."""
    return {
        **facts(one, "path", "index", "size_bytes"),
        **rounded(one, "stall_s", "copy_s", "write_s", "sync_s"),
        "bytes_per_s": round(one.bytes_per_s),
    }
