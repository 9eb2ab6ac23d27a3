"""Folders of weights as Hugging Face's `save_pretrained` writes them: one file, or shards with an index.

Source: `transformers.modeling_utils.save_pretrained` and `huggingface_hub.serialization`: the index is
`{"metadata": {"total_size": N}, "weight_map": {tensor: file}}`. Which of several files of weights is read:
`transformers.modeling_utils._get_resolved_checkpoint_files`.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from marlin_ckpt.formats.layouts.layout import Names
from marlin_ckpt.formats.layouts.parts import Makeup, Part, ToolLayout, listed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from marlin_ckpt.formats.layouts.members import Folder

MODELS = ("model", "pytorch_model", "diffusion_pytorch_model")
CONFIG = "config.json"
_GENERATION = "generation_config.json"  # a generative model has it beside its `config.json`
_ARGUMENTS = "training_args.bin"
_TEXTS = (".json", ".txt", ".md", ".model", ".jinja", ".gitattributes", ".gitignore")
_VARIANT = r"(?:\.(?P<variant>[\w-]+))?"
_SINGLE = re.compile(rf"(?P<stem>\w+){_VARIANT}\.(?P<kind>safetensors|bin)")
_INDEX = re.compile(rf"(?P<stem>[^/]+)\.(?P<kind>safetensors|bin)\.index{_VARIANT}\.json")
_SHARD = re.compile(
    rf"(?P<stem>[^/]+?)(?:\.(?P<old>[\w-]+))?-[0-9]{{5}}-of-[0-9]{{5}}{_VARIANT}\.(?P<kind>safetensors|bin)"
)
_SAVED = re.compile(r"checkpoint-[0-9]+")


class HuggingFaceLayout(ToolLayout):
    """Reads such folders; see `Layout`."""

    name = "hugging-face"
    content = "a Hugging Face folder of weights"
    is_flat = True  # a Trainer leaves the last weights beside its `checkpoint-N`
    hint = "from_pretrained of Transformers reads it"

    def recognises(self, names: Names) -> bool:
        """Whether there is an index of weights, a shard, or a configuration with weights or with none."""
        if any(map(_INDEX.fullmatch, names.files)) or any(map(_is_one_of_several, names.files)):
            return True
        configs = {CONFIG, _GENERATION} & names.files
        if has_weights(names.files):
            return bool(configs)
        # Weights of another format have other names, and may lie in folders.
        return len(configs) == 2 and not names.folders and all(map(_is_text, names.files))  # noqa: PLR2004

    def makeup(self, folder: Folder) -> Makeup:
        """The shards that the index names, or the one file of weights; and what belongs to it."""
        found = weights_in(folder)
        if not (found.parts or found.missing or found.wrong):
            found.missing.append("the weights are missing")
        if _ARGUMENTS in folder.items and _SAVED.fullmatch(folder.name):
            found.missing.append("trainer_state.json is missing: the Trainer did not finish this save")
        add_unreachable(folder, found)
        return found


def _is_one_of_several(name: str) -> bool:
    """Whether a name is that of a shard, beside which there has to be an index."""
    match = _SHARD.fullmatch(name)
    return match is not None and match["stem"] in MODELS and "-of-00001." not in name


def _is_text(name: str) -> bool:
    return name.endswith(_TEXTS) or name == _ARGUMENTS


def has_weights(names: Iterable[str]) -> bool:
    """Whether any of some names is that of a model's weights, or of a shard of them."""
    return any(
        (match := _SINGLE.fullmatch(name) or _SHARD.fullmatch(name) or _INDEX.fullmatch(name))
        and match["stem"] in MODELS
        for name in names
    )


class _Source(NamedTuple):
    """A file of weights, or an index of some.

    The least one is read where there are several: of safetensors before pickles, the plain one before
    variants such as `fp16`, and a file of its own before an index.
    """

    is_pickled: bool
    variant: str
    is_index: bool
    name: str


def weights_in(folder: Folder, stems: Collection[str] = (), state: str = "") -> Makeup:
    """The weights directly in a folder; none: there is no part.

    Shards that the index names and the folder lacks are missing, unless a link that leads nowhere is there.

    Args:
        folder: that they are in.
        stems: what the names of their files start with, such as `model`; none: those of models.
        state: under which name they are in the tree; see `Part`.
    """
    found = Makeup()
    names = sorted(name for name in folder.items if "/" not in name)
    sources = sorted(_sources(names, stems or MODELS, is_any=not stems))
    if sources and sources[0].is_index:
        _read_index(folder, sources[0].name, found, state)
    elif sources:
        found.parts = [Part(sources[0].name, state)]
    elif shards := [name for name in names if (one := _SHARD.fullmatch(name)) and one["stem"] in MODELS]:
        found.parts = [Part(name, state) for name in shards]
        stem, _, end = shards[0].partition("-")
        found.missing.append(f"{stem}.{end.rpartition('.')[2]}.index.json is missing")
    if others := [one.name for one in sources[1:]]:
        found.notes.append(f"{sources[0].name} is read; also there: {listed(others)}")
    if found.parts and not stems and _GENERATION in folder.items and CONFIG not in folder.items:
        found.missing.append(f"{CONFIG} is missing")
    return found


def add_unreachable(folder: Folder, found: Makeup) -> None:
    """Adds the links that lead nowhere, and what to type where the hub's tool fetches what is missing."""
    found.missing += [f"{name} is a link that leads nowhere" for name in folder.dangling()]
    if found.missing and (typed := folder.fetched_by):
        found.missing.append(f"`{typed}` fetches what is missing")


def _sources(names: Iterable[str], stems: Collection[str], *, is_any: bool) -> Iterator[_Source]:
    for name in names:
        index = _INDEX.fullmatch(name)
        match = index or _SINGLE.fullmatch(name)
        if match and (match["stem"] in stems or (index and is_any)):
            yield _Source(match["kind"] == "bin", match["variant"] or "", bool(index), name)


def _read_index(folder: Folder, name: str, found: Makeup, state: str) -> None:
    index = folder.json_object(name, found.wrong)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(type(one) is str for one in places.values()):
        found.wrong += [] if found.wrong else [f"{name}: without a weight_map"]
        return
    found.places = places
    shards = sorted(set(places.values()))
    outside = [one for one in shards if one in ("", ".", "..") or "/" in one or "\0" in one]
    if outside:
        found.wrong.append(f"{name} names a file outside of the folder: {outside[0][:100]}")
        return
    lost = [one for one in shards if one not in folder.items]
    dangling = set(folder.dangling())
    if absent := [one for one in lost if one not in dangling]:
        found.missing.append(f"{listed(absent)} {'is' if len(absent) == 1 else 'are'} missing")
    found.parts = [Part(one, state) for one in shards if one in folder.items]
    about = index.get("metadata")
    about = about if isinstance(about, dict) else {}
    if "total_parameters" in about and CONFIG not in folder.items and _GENERATION not in folder.items:
        found.missing.append(f"{CONFIG} is missing")  # save_pretrained of Transformers 5 wrote the index
    stated = about.get("total_size")
    if isinstance(stated, (int, float)) and math.isfinite(stated):
        found.tensor_bytes = int(stated)
    kind = _INDEX.fullmatch(name)
    stale = sorted(
        one
        for one in folder.items
        if kind and one not in shards and (match := _SHARD.fullmatch(one))
        and match.group("stem", "kind") == kind.group("stem", "kind")
        and (match["old"] or match["variant"]) == kind["variant"]
    )  # fmt: skip
    if stale:
        found.notes.append(f"{name} does not list {listed(stale)}")
