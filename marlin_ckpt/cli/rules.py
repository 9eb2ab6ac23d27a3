"""The options that are rules of retention; each means what the YAML key of the same name means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from marlin_ckpt.cli.options import option, read_by
from marlin_ckpt.errors import ArgumentsError
from marlin_ckpt.fields import duration_of, size_of

if TYPE_CHECKING:
    from marlin_ckpt.keep import BestArguments, RetentionArguments

# METRIC, METRIC:MODE or METRIC:MODE:N; else the name itself has a colon.
_BEST = re.compile(r"\A(.*?)(?::(min|max)(?::(\d+))?)?\Z", re.DOTALL)


def _newest_of(period: str) -> str:
    return f"Keep the newest of each {period} (UTC), for the last N that have one."


Last = Annotated[int | None, option("--keep-last", "N", "Keep the N newest checkpoints.", min=1)]
Every = Annotated[
    int | None, option("--keep-every", "K", "Keep checkpoints whose index is divisible by K.", min=1)
]
Best = Annotated[
    list[str] | None,
    option(
        "--keep-best",
        "METRIC[:min|max[:N]]",
        "Keep the N (else 1) with the smallest (min) or largest value; may be repeated.",
    ),
]
Within = Annotated[
    str | None,
    option("--keep-within", "T", "Keep checkpoints of the last 12h, 7d, ...", callback=read_by(duration_of)),
]
Hourly = Annotated[int | None, option("--keep-hourly", "N", _newest_of("hour"), min=1)]
Daily = Annotated[int | None, option("--keep-daily", "N", _newest_of("day"), min=1)]
Weekly = Annotated[int | None, option("--keep-weekly", "N", _newest_of("week"), min=1)]
MaxTotal = Annotated[
    str | None,
    option(
        "--max-total",
        "SIZE",
        "Remove the oldest of what is kept until the rest takes no more than SIZE, such as 50GB.",
        callback=read_by(size_of),
    ),
]


def rules(best: list[str] | None, **others: int | str | None) -> RetentionArguments | None:
    """The rules that were given; None where none was.

    Args:
        best: `METRIC`, `METRIC:MODE` or `METRIC:MODE:N` each.
        others: the fields of `RetentionArguments` by their names.

    Raises:
        typer.BadParameter: one cannot be read.
    """
    from marlin_ckpt.keep import RetentionArguments

    if not best and all(value is None for value in others.values()):
        return None
    return RetentionArguments(best=[_best(text) for text in best or ()] or None, **others)  # type: ignore[arg-type]


def _best(text: str) -> BestArguments:
    from marlin_ckpt.keep import BestArguments

    ((metric, mode, count),) = _BEST.findall(text)
    try:
        return BestArguments(metric, mode or "min", int(count or 1))
    except (ArgumentsError, ValueError) as error:  # int() reads no more than 4,300 digits
        expected = f"expected METRIC:min:N or METRIC:max:N, such as val_loss:min:2, not {text!r}"
        raise typer.BadParameter(expected, param_hint="--keep-best") from error
