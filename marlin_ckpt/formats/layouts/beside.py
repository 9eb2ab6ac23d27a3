"""The small files beside the folders of a run that name the one which the run goes on from.

Source: `deepspeed.runtime.engine.DeepSpeedEngine.save_checkpoint` writes the tag into `latest`, its script
`ds_to_universal.py` into `latest_universal`; Megatron-LM's `get_checkpoint_tracker_filename` is the third,
which has the number of the iteration, or the word `release`.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from marlin_ckpt.errors import MarlinError

if TYPE_CHECKING:
    from marlin_ckpt.storage.store import Store

_FILES = ("latest", "latest_universal", "latest_checkpointed_iteration.txt")
_LONGEST = 255  # bytes of a name: NAME_MAX of linux/limits.h


def said_beside(store: Store, folder: str) -> dict[str, tuple[str, ...]]:
    """What such files say, by their names: the name of a folder; of an iteration also what it may be called.

    Args:
        store: that a folder of the run is in.
        folder: its name there.
    """
    above = os.path.dirname(folder)
    found: dict[str, tuple[str, ...]] = {}
    for file in _FILES:
        with contextlib.suppress(MarlinError), store.open(f"{above}/{file}" if above else file) as source:
            if source.size_bytes > _LONGEST:  # something else of that name
                continue
            name = source.read(0, source.size_bytes).decode("utf-8", "surrogateescape").strip()
            if name:
                found[file] = (f"iter_{name:0>7}", name) if name.isdecimal() else (name,)
    return found
