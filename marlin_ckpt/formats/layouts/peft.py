"""Folders of an adapter as PEFT writes them: its weights, and what they were trained on.

Source: `peft.peft_model.PeftModel.save_pretrained`; a second adapter has a folder of its own in the first's.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from marlin_ckpt.formats.layouts.hugging_face import add_unreachable, weights_in
from marlin_ckpt.formats.layouts.layout import Names
from marlin_ckpt.formats.layouts.parts import Makeup, ToolLayout

if TYPE_CHECKING:
    from marlin_ckpt.formats.layouts.members import Folder

CONFIG = "adapter_config.json"
STEM = "adapter_model"
WEIGHTS = (f"{STEM}.safetensors", f"{STEM}.bin")


class PeftLayout(ToolLayout):
    """Reads such folders; see `Layout`."""

    name = "peft"
    content = "an adapter of PEFT"
    is_flat = True
    hint = "PeftModel.from_pretrained of PEFT reads it"

    def recognises(self, names: Names) -> bool:
        """Whether there is an adapter's configuration, or its weights."""
        return not names.files.isdisjoint((CONFIG, *WEIGHTS))

    def makeup(self, folder: Folder) -> Makeup:
        """The adapter's weights, and its configuration."""
        found = adapter_in(folder)
        add_unreachable(folder, found)
        return found


def adapter_in(folder: Folder, state: str = "") -> Makeup:
    """The adapter directly in a folder, and what it lacks.

    Args:
        folder: that it is in.
        state: under which name its weights are in the tree; see `parts.Part`.
    """
    found = weights_in(folder, (STEM,), state)
    if CONFIG in folder.items:
        settings = folder.json_object(CONFIG, found.wrong)
        if "peft_type" not in settings and not found.wrong:
            found.wrong.append(f"{CONFIG}: without a peft_type")
    elif CONFIG not in folder.dangling():
        found.missing.insert(0, f"{CONFIG} is missing")
    if not found.parts and not any(os.path.basename(one) in WEIGHTS for one in folder.dangling()):
        found.missing.insert(0, f"{WEIGHTS[0]} is missing")
    return found
