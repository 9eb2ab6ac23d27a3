"""How often to save: the advice of `advise`, and the measured times that it follows from."""

from typing import Any

from marlin_ckpt.cli import output, table
from marlin_ckpt.cli.table import Column, figure
from marlin_ckpt.cli.text import duration, size
from marlin_ckpt.cli.views.facts import rounded
from marlin_ckpt.escaping import escape
from marlin_ckpt.operations.advice import Advice, Figures, Period

_PERIODS = (
    figure("period"),
    figure("steps", 7),
    figure("overhead"),
    Column("lost per failure", is_right=True, rank=6),
    figure("waste"),
    Column(""),
)
_NOTE_LETTERS = 16  # that are left of what is said in a row
_OF_PERIOD = "period_s", "steps", "overhead", "lost_s", "waste"


def show(directory: str, tried: int, figures: Figures, advice: Advice) -> None:
    """Prints what a save takes, and what several periods would cost.

    Args:
        directory: where the files were written.
        tried: the size of a file that was written, in bytes; the figures are in proportion to it.
        figures: of the whole state.
        advice: the periods.
    """
    how = "" if tried >= figures.size_bytes else f", in proportion to {size(tried)} that were written"
    output.talk(f"a state of {size(figures.size_bytes)} in {escape(directory)}{how}")
    rate = f"{size(figures.size_bytes / max(figures.save_s, 1e-9))}/s"
    rows = [
        ["save", duration(figures.save_s), f"until durable, {rate}"],
        ["stall", duration(advice.stall_s), "training waits, with async_save: true"],
        ["cost", duration(advice.cost_s), "stall and processor time of the background"],
        ["restore", duration(figures.restore_s), "from the disk into live tensors"],
    ]
    table.show(rows, [Column(""), figure("time"), Column("", least=_NOTE_LETTERS, cut="end")])
    output.data("")
    rows = [_row(one, advice) for one in advice.periods]
    table.show(rows, _PERIODS)


def _row(one: Period, advice: Advice) -> list[str]:
    notes = []
    if one == advice.shortest:
        notes.append("shortest within the budget")
    if one == advice.best:
        notes.append("least waste")
    # Without --step-seconds or --mtbf-hours the column of steps or waste is empty, and not printed.
    steps = "" if one.steps is None else f"{one.steps:,}"
    overhead, waste = f"{one.overhead:.2%}", "" if one.waste is None else f"{one.waste:.2%}"
    return [duration(one.period_s), steps, overhead, duration(one.lost_s), waste, ", ".join(notes)]


def document(directory: str, tried: int, figures: Figures, advice: Advice) -> dict[str, Any]:
    """The document of `advise --json`; times are in seconds. Its arguments are those of `show`."""
    return {
        "directory": directory,
        "size_bytes": figures.size_bytes,
        "measured_bytes": tried,
        **rounded(figures, "save_s"),
        **rounded(advice, "stall_s", "cost_s"),
        **rounded(figures, "restore_s"),
        "bytes_per_s": round(figures.size_bytes / max(figures.save_s, 1e-9)),
        "shortest_period_s": rounded(advice.shortest, "period_s")["period_s"],
        "best_period_s": rounded(advice.best, "period_s")["period_s"],
        "periods": [rounded(one, *_OF_PERIOD) for one in advice.periods],
    }
