"""Folders of weights as Hugging Face's `save_pretrained` writes them: one file, or shards with an index.

Source: `transformers.modeling_utils.save_pretrained` and `huggingface_hub.serialization`: the index is
`{"metadata": {"total_size": N}, "weight_map": {tensor: file}}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from marlin_ckpt.formats.layouts.layout import Names
from marlin_ckpt.formats.layouts.parts import Makeup, Part, ToolLayout, listed

if TYPE_CHECKING:
    from marlin_ckpt.formats.layouts.members import Folder

_INDEXES = (".safetensors.index.json", ".bin.index.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_CONFIGS = ("config.json", "model_index.json")


class HuggingFaceLayout(ToolLayout):
    """Reads such folders; see `Layout`."""

    name = "hugging-face"
    content = "a Hugging Face folder of weights"
    is_flat = True  # a Trainer leaves the last weights beside its `checkpoint-N`
    hint = "from_pretrained of Transformers reads it"

    def recognises(self, names: Names) -> bool:
        """Whether there is an index of weights, or a configuration with weights beside it."""
        if any(one.endswith(_INDEXES) for one in names.files):
            return True
        return not names.files.isdisjoint(_CONFIGS) and not names.files.isdisjoint(_WEIGHTS)

    def makeup(self, folder: Folder) -> Makeup:
        """The shards that the index names, or the one file of weights."""
        return weights_in(folder)


def weights_in(folder: Folder) -> Makeup:
    """The weights of a folder, as safetensors where there are both kinds; none: there is no part.

    Links that lead nowhere, and shards that the index names and the folder lacks, are missing.
    """
    found = Makeup()
    indexes = sorted(
        (name for name in folder.items if name.endswith(_INDEXES) and "/" not in name),
        key=lambda name: not name.endswith(_INDEXES[0]),
    )
    if indexes:
        _read_index(folder, indexes[0], found)
    else:
        found.parts = [Part(name) for name in _WEIGHTS if name in folder.items][:1]
    found.missing += [f"{name} is a link that leads nowhere" for name in folder.dangling()]
    return found


def _read_index(folder: Folder, name: str, found: Makeup) -> None:
    index = folder.json_object(name, found.wrong)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(type(one) is str for one in places.values()):
        found.wrong += [] if found.wrong else [f"{name}: without a weight_map"]
        return
    found.places = places
    shards = list(dict.fromkeys(places.values()))
    outside = [one for one in shards if one in ("", ".", "..") or "/" in one or "\0" in one]
    if outside:
        found.wrong.append(f"{name} names a file outside of the folder: {outside[0][:100]}")
        return
    lost = [one for one in shards if one not in folder.items]
    dangling = set(folder.dangling())
    if absent := [one for one in lost if one not in dangling]:
        found.missing.append(f"{listed(absent)} {'is' if len(absent) == 1 else 'are'} missing")
    found.parts = [Part(one) for one in shards if one in folder.items]
    _note_size(folder, index, found)


def _note_size(folder: Folder, index: dict[str, object], found: Makeup) -> None:
    """A `total_size` that differs is common in merged and tied models, and harms nobody."""
    about = index.get("metadata")
    stated = about.get("total_size") if isinstance(about, dict) else None
    held = sum(folder.items[one.name].size_bytes for one in found.parts)
    if type(stated) is int and stated > held:
        found.notes.append(f"its index states {stated:,} bytes of tensors, and the files have {held:,}")
