"""Writes sizes, times, counts, names and values as a person reads them, all harmless to a terminal."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from marlin_ckpt.escaping import escape
from marlin_ckpt.fields import size_text

_LONGEST_NAME = 200  # characters; no name that anybody gave is longer
_LONGEST_TEXT = 40  # characters of a value
_MOST_PARTS = 6  # of a list
_MOST_NAMES = 3
_BLOCKS = "▁▂▃▄▅▆▇█"

size = size_text  # of which the library writes in its own messages, too


def age(seconds: float) -> str:
    """An age in its largest unit: 3 h."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def duration(seconds: float) -> str:
    """A duration with three digits: 41.2 ms, 3.5 min."""
    if seconds < 0.9995:  # noqa: PLR2004 - what three digits would round to 1e+03
        return f"{seconds * 1000:.3g} ms"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def count(number: int, noun: str) -> str:
    """A number of things: 1 file, 2 files."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def some(names: Sequence[str]) -> str:
    """The first few of some names."""
    return ", ".join(map(escape, names[:_MOST_NAMES])) + ", ..." * (len(names) > _MOST_NAMES)


def metrics(values: Mapping[str, float]) -> str:
    """Names and values of metrics, for one cell of a table."""
    return "  ".join(f"{escape(name)} {value:.4g}" for name, value in sorted(values.items()))


def shape(sizes: Sequence[int]) -> str:
    """The shape of a tensor: [2, 3]."""
    return f"[{', '.join(map(str, sizes))}]"


def cut(text: str, longest: int = _LONGEST_NAME) -> str:
    """A text of so many characters at most, made harmless."""
    return escape(text if len(text) <= longest else text[:longest] + "...")


def spark(values: Sequence[float], width: int = 40) -> str:
    """Finite numbers as a line of blocks, of lower and higher ones; of many numbers evenly chosen ones."""
    step = max(1.0, (len(values) - 1) / (width - 1))
    count = min(len(values), width)
    chosen = [values[round(number * step)] / 2 for number in range(count)]  # whose differences are finite
    least, span = min(chosen), max(chosen) - min(chosen)
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round((value - least) / span * top) if span else 0] for value in chosen)


def bars(histogram: Sequence[int]) -> str:
    """A histogram as a line of blocks; every bin that is not empty is visible."""
    most = max(histogram, default=0)
    return "".join(_BLOCKS[-(-part * len(_BLOCKS) // most) - 1] if part else " " for part in histogram)


def value(one: Any) -> str:
    """A plain value, or a list of them, in few characters."""
    if isinstance(one, (list, tuple, set, frozenset, dict)):
        parts = [value(part) for part in itertools.islice(one, _MOST_PARTS)]
        if len(one) > _MOST_PARTS:
            parts[_MOST_PARTS // 2 :] = [f"... {len(one):,} in all"]
        return ("({})" if isinstance(one, tuple) else "[{}]").format(", ".join(parts))
    if isinstance(one, (str, bytes)):
        return escape(repr(one[:_LONGEST_TEXT])) + "..." * (len(one) > _LONGEST_TEXT)
    return str(one)
