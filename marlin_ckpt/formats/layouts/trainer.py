"""A folder `checkpoint-N` of the Trainer of Transformers.

Source: `transformers.trainer.Trainer._save_checkpoint`: the model first, then the optimizer, the scheduler
and the random numbers, which `save_only_model` leaves out, and `trainer_state.json` last.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

from marlin_ckpt.errors import BadFileError, CheckpointNotFoundError
from marlin_ckpt.formats.layouts import hugging_face, peft
from marlin_ckpt.formats.layouts.accelerate import MERGE
from marlin_ckpt.formats.layouts.layout import Names
from marlin_ckpt.formats.layouts.parts import Makeup, Part, ToolLayout, folders_of, gaps

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from marlin_ckpt.entries import Entry
    from marlin_ckpt.formats.layouts.members import Folder
    from marlin_ckpt.storage.store import Store

STATE = "trainer_state.json"
_ARGUMENTS = "training_args.bin"
_MODEL = "model"
_OPTIMIZER = "optimizer"
_NAME = re.compile(r"checkpoint-([0-9]+)")
_RANDOM = re.compile(r"rng_state(?:_(?P<rank>[0-9]+))?\.pth")
# What Accelerate writes for FSDP: one file, or a folder of DCP, or a file of each rank.
_FSDP = {
    _MODEL: re.compile(r"pytorch_model_fsdp(?:_0)?(?:_rank(?P<rank>[0-9]+))?(?:\.bin)?"),
    _OPTIMIZER: re.compile(r"optimizer(?:_0)?(?:_rank(?P<rank>[0-9]+))?(?:\.bin)?"),
}
_LATEST = "latest"
_LONGEST_NAME = 255  # bytes, of a folder on Linux
_DEEPSPEED = re.compile(r"global_step[0-9]+")
# No text in JSON holds a line break: by these an indented file is taken to pieces without reading all of it.
_STEP = re.compile(rb'\n  "global_step": ([0-9]{1,15}),?\n')
_HISTORY = b'\n  "log_history": ['
_ROW, _ROW_END = b"\n    {", b"\n    }"
_END = b"\n  ]"


class TrainerLayout(ToolLayout):
    """Reads such folders; see `Layout`."""

    name = "trainer"
    content = "a checkpoint of the Trainer of Transformers"
    hint = "the Trainer of Transformers reads it: resume_from_checkpoint"

    def recognises(self, names: Names) -> bool:
        """Whether the Trainer's state is there, or what a run goes on from beside the weights.

        The folder of a run may have a state, too, beside its checkpoints.
        """
        if any(map(_NAME.fullmatch, names.folders)):
            return False
        if STATE in names.files:
            return True
        weights = hugging_face.has_weights(names.files) or not names.files.isdisjoint(peft.WEIGHTS)
        weights |= any(map(_FSDP[_MODEL].fullmatch, names.files | names.folders))
        return weights and any(
            one in ("optimizer.pt", "scheduler.pt") or _RANDOM.fullmatch(one) for one in names.files
        )

    def makeup(self, folder: Folder) -> Makeup:
        """The weights, and what a run goes on from beside them."""
        found = _weights(folder)
        parts = list(found.parts)
        optimizer = _optimizer(folder)
        ranks = [
            Part(one, f"rng_state_{rank}" if rank else "rng_state") for one, rank in _ranks(folder, _RANDOM)
        ]
        others = [
            Part(one, one.removesuffix(".pt")) for one in ("scheduler.pt", "scaler.pt") if one in folder.items
        ]
        if optimizer or ranks or others:  # else `save_only_model` left them out, or they are all gone
            lacks = [] if optimizer else ["optimizer.pt"]
            lacks += [] if "scheduler.pt" in folder.items or _is_deepspeed(optimizer) else ["scheduler.pt"]
            lacks += [] if ranks else ["rng_state.pth"]
            found.missing += [f"{one} is missing" for one in lacks]
        found.parts = [*parts, *optimizer, *others, *ranks]
        found.missing += _gaps(folder)
        if _is_deepspeed(optimizer):
            _read_latest(folder, found)
        if _ARGUMENTS in folder.items:
            found.parts = [*found.parts, Part(_ARGUMENTS, "training_args")]
        if STATE in folder.items:
            _read_state(folder, found)
        else:
            found.missing.insert(0, f"{STATE} is missing: the Trainer did not finish this save")
        hugging_face.add_unreachable(folder, found)
        return found

    def needs(self, store: Store, entry: Entry) -> frozenset[str] | None:
        """The folder of the best model so far; see `Layout.needs`."""
        from marlin_ckpt.formats.layouts.members import Folder  # noqa: PLC0415 - commands on names go without

        folder = Folder(store, entry)
        state = folder.json_object(STATE, []) if STATE in folder.items else {}
        if not state:
            return None
        best = state.get("best_model_checkpoint")
        # The path is as the run saw it; the folders may have been moved since.
        return frozenset([os.path.basename(best.rstrip("/"))] if isinstance(best, str) and best else [])


def metrics_at(step: int, history: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """What a Trainer has logged at a step, evaluations included.

    Args:
        step: the number of steps that were trained.
        history: `log_history` of the trainer's state.
    """
    rows = [row for row in history if row.get("step") == step]
    found = {key: value for row in rows for key, value in row.items() if key != "step"}
    return {key: value for key, value in found.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) <= sys.float_info.max)


def _weights(folder: Folder) -> Makeup:
    """The model's weights: whole, an adapter, of FSDP or DeepSpeed, or of several models in folders."""
    found = hugging_face.weights_in(folder, state=_MODEL)
    if found.parts or found.missing or found.wrong:
        return found
    if peft.CONFIG in folder.items or any(one in folder.items for one in peft.WEIGHTS):
        return peft.adapter_in(folder, _MODEL)
    found.parts = _sharded(folder, _MODEL)
    if found.parts or _deepspeed(folder):
        return found
    for name in folders_of(
        folder
    ):  # each of several adapters has one, and so have the modules of other models
        below, state = folder.below(name), f"{_MODEL}/{name}"
        own = hugging_face.weights_in(below, state=state)
        if not own.parts and peft.CONFIG in below.items:
            own = peft.adapter_in(below, state)
        found.parts = [*found.parts, *(one._replace(name=f"{name}/{one.name}") for one in own.parts)]
        found.places = {**found.places, **{key: f"{name}/{file}" for key, file in own.places.items()}}
        found.missing += [f"{name}/{one}" for one in own.missing]
        found.wrong += [f"{name}/{one}" for one in own.wrong]
    if not found.parts and not found.missing:
        found.missing.append("the weights of the model are missing")
    return found


def _optimizer(folder: Folder) -> list[Part]:
    if "optimizer.pt" in folder.items:
        return [Part("optimizer.pt", _OPTIMIZER)]
    return _sharded(folder, _OPTIMIZER) or _deepspeed(folder)


def _sharded(folder: Folder, state: str) -> list[Part]:
    """What Accelerate wrote of a state for FSDP."""
    pattern = _FSDP[state]
    nested = [Part(one, layout="dcp") for one in folders_of(folder) if pattern.fullmatch(one)]
    return nested or [
        Part(one, f"{state}_rank_{rank}", partial=MERGE) if rank else Part(one, state)
        for one, rank in _ranks(folder, pattern)
    ]


def _deepspeed(folder: Folder) -> list[Part]:
    return [Part(one, layout="deepspeed") for one in folders_of(folder) if _DEEPSPEED.fullmatch(one)]


def _is_deepspeed(parts: list[Part]) -> bool:
    return any(one.layout == "deepspeed" for one in parts)


def _read_latest(folder: Folder, found: Makeup) -> None:
    """The Trainer names no tag; DeepSpeed takes that of the file: `load_checkpoint`."""
    try:
        with folder.open(_LATEST) as source:
            tag = source.read(0, min(source.size_bytes, _LONGEST_NAME)).decode(errors="replace").strip()
    except CheckpointNotFoundError:
        found.missing.append(f"{_LATEST} is missing: DeepSpeed finds its folder by it")
        return
    if tag not in folders_of(folder):
        found.wrong.append(f"{_LATEST} names {tag!r}, which is not there")


def _ranks(folder: Folder, pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    """The files that each rank wrote, with the rank's number, "" where there is but one; in their order."""
    found = [(name, match["rank"] or "") for name in folder.items if (match := pattern.fullmatch(name))]
    return sorted(found, key=lambda one: (len(one[1]), one[1]))


def _gaps(folder: Folder) -> list[str]:
    """The files of ranks between others; what the last ones wrote cannot be missed."""
    missing = []
    for pattern in (_RANDOM, *_FSDP.values()):
        named = {int(rank): name for name, rank in _ranks(folder, pattern) if rank}
        numbers = (
            {*named, 1} if named and pattern is _RANDOM else named.keys()
        )  # one process does not number it
        for number in [*gaps(numbers), *(numbers - named.keys())]:
            rank, name = next(iter(named.items()))
            start, _, end = name.rpartition(str(rank))
            missing.append(f"{start}{number}{end} is missing")
    return missing


def _read_state(folder: Folder, found: Makeup) -> None:
    found.values = [STATE]
    state = _quickly(folder) or folder.json_object(STATE, found.wrong)
    step = state.get("global_step")
    if type(step) is not int:
        found.wrong += [f"{STATE}: without a global_step"] if state else []
        return
    history = state.get("log_history")
    if isinstance(history, list):
        found.metrics = metrics_at(step, [row for row in history if isinstance(row, dict)])
    named = _NAME.fullmatch(folder.name)
    if named and int(named[1]) != step:
        found.wrong.append(f"{STATE} is of step {step}, and the folder's name of step {int(named[1])}")


def _quickly(folder: Folder) -> dict[str, Any]:
    """The step and what was logged at it, without reading the rest of a long history.

    Returns:
        that, or nothing where the file is not indented as the Trainer does it.
    """
    from marlin_ckpt.formats.layouts.members import parsed  # noqa: PLC0415 - commands on names go without

    try:
        text = folder.read_text(STATE)
    except BadFileError:
        return {}
    step = _STEP.search(text)
    start = text.find(_HISTORY)
    end = text.find(_END, start)
    if step is None or start < 0 or end < 0 or not text.rstrip().endswith(b"}"):
        return {}
    logged = re.compile(rb'\n      "step": %s(?:\.0)?,?\n' % step[1])
    places = dict.fromkeys(text.rfind(_ROW, start, one.end()) for one in logged.finditer(text, start, end))
    path = os.path.join(folder.path, STATE)
    try:
        found = [parsed(text[one : text.find(_ROW_END, one) + len(_ROW_END)], path) for one in places]
    except BadFileError:
        return {}
    return {"global_step": int(step[1]), "log_history": found}
