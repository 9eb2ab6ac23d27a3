"""The small file in which a directory has the runs that saved there, where there are several.

It is for those who go by names alone, as `latest`; `neighbours` writes it, before the saves of a second run.
"""

import os
from collections.abc import Mapping

from marlin_ckpt.directory import own

_FILE, _LAST, _OTHERS = "runs.json", "last", "others"
_MOST_RUNS, _MOST_LETTERS = 100, 255  # beyond which we have not written the file


def shown(run_id: str) -> str:
    """A run in a message."""
    return f"run {run_id}" if run_id else "files without a run id"


def known_runs(directory: str) -> list[str]:
    """The runs that have checkpoints in a directory by the small file, where there are several.

    Returns:
        their ids, the one that saved last first; none where there is one run.
    """
    last, others = read(directory)
    left = [run for run, name in others.items() if os.path.lexists(os.path.join(directory, name))]
    return [last, *left] if left else []


def read(directory: str) -> tuple[str, dict[str, str]]:
    """The run that saved last, and by the others' ids the name of the newest checkpoint of each."""
    values = own.read(directory, _FILE)
    last, others = values.get(_LAST, ""), values.get(_OTHERS, {})
    names = [last, *others, *others.values()] if isinstance(others, dict) else [None]
    is_ours = len(names) <= 2 * _MOST_RUNS and all(
        isinstance(one, str) and len(one) <= _MOST_LETTERS and "/" not in one for one in names
    )
    return (last, others) if is_ours else ("", {})


def write(directory: str, last: str, others: Mapping[str, str]) -> None:
    """Replaces what `read` reads."""
    own.write(directory, _FILE, {_LAST: last, _OTHERS: dict(others)})
