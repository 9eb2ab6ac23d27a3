"""The runs of a directory: how they are named, and the small file that has them, where there are several.

The file is for those who go by names alone, as `latest`; `neighbours` writes it, before the saves of a second
run.
"""

import os
from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

from marlin_ckpt.directory import own
from marlin_ckpt.storage.paths import exists

_FILE, _LAST, _OTHERS = "runs.json", "last", "others"
_MOST_LETTERS = 255  # of a run's id or a file's name; we have not written a longer one


def shown(run_id: str) -> str:
    """A run in a message."""
    return f"run {run_id}" if run_id else "files without a run id"


def beginning_with(text: str, run_ids: Collection[str]) -> list[str]:
    """The runs that a person may mean by the beginning of an id, or by a whole one."""
    return [text] if text in run_ids else [one for one in run_ids if one.startswith(text)]


def known_runs(directory: str) -> list[str]:
    """The runs that have checkpoints in a directory by the small file, where there are several.

    Returns:
        their ids, the one that saved last first; none where there is one run.
    """
    last, others = read(directory)
    left = [run for run, name in others.items() if exists(os.path.join(directory, name))]
    return [last, *left] if left else []


def read(directory: str) -> tuple[str, dict[str, str]]:
    """The run that saved last, and by the others' ids the name of the newest checkpoint of each."""
    values = own.read(directory, _FILE)
    last, others = values.get(_LAST), values.get(_OTHERS)
    if not (_may_be_ours(last) and isinstance(others, dict)):
        return "", {}
    return last, {run: name for run, name in others.items() if _may_be_ours(run) and _may_be_ours(name)}


def _may_be_ours(text: Any) -> TypeGuard[str]:
    return isinstance(text, str) and len(text) <= _MOST_LETTERS and "/" not in text


def write(directory: str, last: str, others: Mapping[str, str]) -> None:
    """Replaces what `read` reads."""
    own.write(directory, _FILE, {_LAST: last, _OTHERS: dict(others)})
