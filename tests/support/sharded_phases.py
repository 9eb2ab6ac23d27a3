"""Has something happen to a rank at a phase of a sharded save."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from marlin_ckpt.distributed import commit, saving
from marlin_ckpt.distributed.commit import Staging
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.shards import shard
from marlin_ckpt.storage.local import publishing, staging

# Where each phase begins: what is called then; those of the second kind are of rank 0 alone.
AT_ALL = {
    "planned": (saving, "_write"),
    "looking": (commit, "find"),
    "writing": (shard, "write_shard"),
    "voting": (Ranks, "gathered"),
}
AT_MAIN = {
    "publishing": (Staging, "publish"),
    "listing": (publishing, "sync_directory"),
    "naming": (staging, "publish"),
    "named": (staging, "sync_open_directory"),
    "releasing": (staging, "release"),
}
PHASES = {**AT_ALL, **AT_MAIN}


@contextlib.contextmanager
def at(phase: str, act: Callable[[], Any]) -> Iterator[None]:
    """Acts when this process begins a phase, once; after the first bytes of a shard where it is "within"."""
    owner, name = PHASES["writing" if phase == "within" else phase]
    real, acted = getattr(owner, name), []

    def once() -> None:
        if not acted:
            acted.append(True)
            act()

    def stand_in(*arguments: Any, **options: Any) -> Any:
        if phase != "within":
            once()
            return real(*arguments, **options)
        target, *others = arguments
        return real(_Acting(target, once), *others, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, stand_in)
        yield


class _Acting:
    def __init__(self, target: Any, act: Callable[[], Any]) -> None:
        self._target, self._act = target, act

    def put(self, data: Any, on_stored: Any = None, crc32: int | None = None, same: Any = None) -> int:
        summed: int = self._target.put(data, on_stored, crc32, same)
        self._act()
        return summed
