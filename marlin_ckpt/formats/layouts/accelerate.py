"""The folders of Accelerate's `save_state`, whatever their name: `checkpoint_3`, or one that the user gave.

Source: `accelerate.checkpointing.save_accelerator_state` and `accelerate.utils.fsdp_utils`: each model,
optimizer and scheduler has a file of its own, the first without a number; with FSDP and DeepSpeed there are
folders in place of them; each process writes its `random_states_R.pkl`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from marlin_ckpt.formats.layouts.layout import Names
from marlin_ckpt.formats.layouts.parts import Makeup, Part, ToolLayout, folders_of, gaps

if TYPE_CHECKING:
    from marlin_ckpt.formats.layouts.members import Folder

# What the states are called in the tree, in the order in which they are shown, and the names of their files;
# where `{n}` stands, the first has no number.
_STATES = {
    "model": r"(?:model{n}\.safetensors|pytorch_model{n}\.bin|pytorch_model_fsdp{n}\.bin)",
    "optimizer": r"optimizer{n}\.bin",
    "scheduler": r"scheduler{n}\.bin",
    "sampler": r"sampler{n}\.bin",
    "dl_state_dict": r"dl_state_dict{n}\.bin",
    "scaler": r"scaler\.pt()",
    "custom_checkpoint": r"custom_checkpoint_([0-9]+)\.pkl",
    "random_states": r"random_states_([0-9]+)\.pkl",
}
_PATTERNS = {state: re.compile(names.replace("{n}", "(?:_([0-9]+))?")) for state, names in _STATES.items()}
_NUMBERED = ("custom_checkpoint", "random_states")  # from 0 on; of the others the first has no number
_WITH_GAPS = ("sampler", "dl_state_dict")  # each loader has a file or none, as its data are
_OF_RANKS = re.compile(r"((?:pytorch_model_fsdp|optimizer)(?:_[0-9]+)?_rank)([0-9]+)\.bin")
_FSDP = re.compile(r"(pytorch_model_fsdp|optimizer)_([0-9]+)")  # folders of DCP
_TAG = re.compile(r"pytorch_model(?:_([0-9]+))?")  # folders of DeepSpeed
_NUMBER = re.compile(r"_[0-9]+(?=\.)")
_OTHERS = ("trainer_state.json",)  # the Trainer of Transformers writes files of the same names
_MODELS = ("model", "pytorch_model")
_WEIGHTS = ".safetensors"
MERGE = "load it with as many processes as saved it, and save a state that is not sharded"


class AccelerateLayout(ToolLayout):
    """Reads such folders; see `Layout`."""

    name = "accelerate"
    content = "a state of Accelerate"
    hint = "accelerator.load_state of Accelerate reads it"

    def recognises(self, names: Names) -> bool:
        """Whether random states and another state are there, or a model and an optimizer by its names."""
        if not names.files.isdisjoint(_OTHERS):
            return False
        found = {state for state, one in _PATTERNS.items() if any(map(one.fullmatch, names.files))}
        if "random_states" in found:
            others = names.folders or any(name.endswith(_WEIGHTS) for name in names.files)
            return len(found) > 1 or bool(others)
        return "optimizer" in found and "model" in found

    def makeup(self, folder: Folder) -> Makeup:
        """A state for each file or folder of weights; see `ToolLayout.makeup`."""
        found = Makeup()
        own = [*_states_in(folder, found.missing), *_folders_in(folder, found.missing)]
        own.sort(key=lambda one: (not one.name.startswith(_MODELS), not one.name.startswith("optimizer")))
        names = tuple(one.name for one in own)
        others = [one for one in _others_in(folder) if one.name not in names]
        # A hook of the user's may save the model in its own way: diffusers' scripts do.
        if not others and not any(name.startswith(_MODELS) for name in names):
            found.missing.append("the weights of the model are missing")
        has_optimizer = any(one.name.startswith("optimizer") or one.layout == "deepspeed" for one in own)
        if "scheduler.bin" in names and not has_optimizer:
            found.missing.append("optimizer.bin is missing")
        if not any(name.startswith("random_states") for name in names):
            found.missing.append("random_states_0.pkl is missing")
        found.missing += [f"{name} is a link that leads nowhere" for name in folder.dangling()]
        found.parts = [*own, *others]
        return found


def _states_in(folder: Folder, missing: list[str]) -> Iterator[Part]:
    """The files of the states, each state's in the order of their numbers; and the gaps."""
    for state, pattern in _PATTERNS.items():
        numbered: dict[int, list[str]] = {}
        for name in sorted(folder.items):
            if match := pattern.fullmatch(name):
                numbered.setdefault(int(next(filter(None, match.groups()), 0)), []).append(name)
        for number in sorted(numbered):
            # Both kinds of weights: load_state takes safetensors.
            name = min(numbered[number], key=lambda one: (not one.endswith(_WEIGHTS), one))
            yield Part(name, f"{state}_{number}" if number or state in _NUMBERED else state)
        if numbered and state not in _WITH_GAPS:
            stem, _, extension = _NUMBER.sub("", next(iter(numbered.values()))[0]).rpartition(".")
            for number in gaps(numbered):
                end = f"_{number}" if number or state in _NUMBERED else ""
                missing.append(f"{stem}{end}.{extension} is missing")
    yield from _of_ranks(folder, missing)


def _of_ranks(folder: Folder, missing: list[str]) -> Iterator[Part]:
    """What each rank saved of a model or optimizer that FSDP shards, where it uses no DCP."""
    ranks: dict[str, set[int]] = {}
    for name in sorted(folder.items):
        if match := _OF_RANKS.fullmatch(name):
            ranks.setdefault(match[1], set()).add(int(match[2]))
    for stem, numbers in ranks.items():
        missing += [f"{stem}{number}.bin is missing" for number in gaps(numbers)]
        yield from (
            Part(f"{stem}{number}.bin", f"{stem}{number}", partial=MERGE) for number in sorted(numbers)
        )


def _folders_in(folder: Folder, missing: list[str]) -> Iterator[Part]:
    """The folders in place of a file, by FSDP and DeepSpeed."""
    numbered: dict[str, set[int]] = {}
    for name in folders_of(folder):
        if match := _FSDP.fullmatch(name):
            number = int(match[2])
            numbered.setdefault(match[1], set()).add(number)
            # In them the names begin with `model` and `optimizer`.
            state = "model" if match[1] == "pytorch_model_fsdp" else match[1]
            yield Part(name, f"{state}_{number}" if number else "", "dcp")
        elif _TAG.fullmatch(name):
            yield Part(name, name, "deepspeed")
    for stem, numbers in numbered.items():
        missing += [f"{stem}_{number} is missing" for number in gaps(numbers)]


def _others_in(folder: Folder) -> Iterator[Part]:
    """Weights by other names and in other folders, as hooks of the user save them: `unet/`."""
    found: dict[str, list[str]] = {}
    for name in sorted(folder.items):
        above, _, last = name.rpartition("/")
        if last.endswith(_WEIGHTS) and "/" not in above:
            found.setdefault(above, []).append(last)
    for above, names in found.items():
        for last in names:
            stem = last.removesuffix(_WEIGHTS)
            state = above if above and len(names) == 1 else f"{above}.{stem}".removeprefix(".")
            yield Part(f"{above}/{last}".removeprefix("/"), state)
