"""In what setting something is written, for the history."""

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
from typing import Any

from marlin_ckpt.errors import MarlinError
from marlin_ckpt.keep import RetentionArguments

MOST_LETTERS = 2000  # of an error: some quote the data that they are about
_GIT_S = 2.0  # a repository on a slow network drive must not hold a run up
_OF_A_START = ("delete_existing_checkpoints",)  # `--overwrite` sets it, and `--resume` clears it


def rules(keep: RetentionArguments | None) -> dict[str, Any]:
    """Rules of retention as YAML has them, without those that are not set."""
    if not isinstance(keep, RetentionArguments):
        return {}
    return {name: value for name, value in dataclasses.asdict(keep).items() if value is not None}


def lasting(args: Any) -> dict[str, Any]:
    """The arguments in a dataclass by name, without those that a resume of the run changes."""
    own = (one.name for one in dataclasses.fields(args) if one.metadata.get("yaml", True))
    return {name: getattr(args, name) for name in own if name not in _OF_A_START}


def digest(config: Any) -> str:
    """The SHA-256 of what a run was configured by, as canonical JSON; "" of None, or of what holds itself."""
    if config is None:
        return ""
    compact = (",", ":")
    for is_sorted in (True, False):  # keys of several types, as a user's mapping may have, have no order
        with contextlib.suppress(TypeError, ValueError, RecursionError):
            text = json.dumps(config, sort_keys=is_sorted, separators=compact, default=_plain, skipkeys=True)
            return hashlib.sha256(text.encode()).hexdigest()
    return ""


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return os.fspath(value) if isinstance(value, os.PathLike) else type(value).__qualname__


def commit() -> str:
    """The commit of the repository that the working directory is in; "" where there is none, or no git."""
    try:
        git = subprocess.run(
            ["git", "rev-parse", "--verify", "HEAD"],  # noqa: S607 - the user's git
            cwd=os.getcwd(), timeout=_GIT_S, stdin=subprocess.DEVNULL, capture_output=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return git.stdout.decode("ascii", "replace").strip()


def in_words(error: BaseException) -> str:
    """What went wrong, for an event."""
    kind = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's class may fail at that, and its error counts more
        return kind
    is_ours = isinstance(error, MarlinError) and text
    return (text if is_ours else f"{kind}: {text}" if text else kind)[:MOST_LETTERS]
