"""The folders of DeepSpeed's `save_checkpoint`: `global_step1000`, or any other tag.

Source: `deepspeed.runtime.engine.DeepSpeedEngine`, `_get_ckpt_name` and `_get_zero_ckpt_name`: each rank of
model parallelism saves the model, with ZeRO-3 each rank of data parallelism does; with ZeRO each of these
saves its part of the optimizer, and of the weights in float32.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from marlin_ckpt.errors import BadFileError
from marlin_ckpt.formats.layouts.layout import Names
from marlin_ckpt.formats.layouts.parts import Makeup, Part, ToolLayout, listed

if TYPE_CHECKING:
    from marlin_ckpt.formats.layouts.members import Folder

_MODEL = re.compile(r"mp_rank_(?P<model>[0-9]+)_model_states\.pt")
_SHARDED_MODEL = re.compile(r"zero_pp_rank_(?P<data>[0-9]+)_mp_rank_(?P<model>[0-9]+)_model_states\.pt")
_OPTIMIZER = re.compile(
    r"(?P<prefix>(?:bf16_|fp16_)?)zero_pp_rank_(?P<data>[0-9]+)_mp_rank_(?P<model>[0-9]+)_optim_states\.pt"
)
_PIPELINE = re.compile(r"layer_(?P<layer>[0-9]+)-model_(?P<model>[0-9]+)-model_states\.pt")
_OTHERS = (  # of a pipeline of one rank a stage, of experts, and of a universal checkpoint
    re.compile(r"layer_[0-9]+-model_states\.pt"),
    re.compile(r"(?:layer_[0-9]+_)?expert_[0-9]+_mp_rank_[0-9]+_model_states\.pt"),
    re.compile(r"expp_rank_[0-9]+_mp_rank_[0-9]+_optim_states\.pt"),
    re.compile(r"zero/[^/]+/[^/]+\.pt"),
)
_TAG = re.compile(r"global_step([0-9]+)")  # DeepSpeed's own; users may name others
_LAYER = re.compile(r"layer_[0-9]+-")
_EXTENSION = ".pt"
_SHARDING_STAGE = 3
_MOST_NAMES = 1_000  # that are missing; a damaged file may state any number of ranks
_MERGE = "`python zero_to_fp32.py . weights`, in the folder above, puts the parts together"
_WHOLE = "`--state mp_rank_00_model_states.module` takes the weights as the model has them, not in float32"


class DeepSpeedLayout(ToolLayout):
    """Reads such folders; see `Layout`."""

    name = "deepspeed"
    content = "a checkpoint of DeepSpeed"
    hint = f"load_checkpoint of DeepSpeed reads it; {_MERGE}"

    def recognises(self, names: Names) -> bool:
        """Whether there is a file of a rank."""
        return any(
            pattern.fullmatch(one)
            for one in names.files
            if one.endswith("_states.pt")
            for pattern in (_MODEL, _SHARDED_MODEL, _OPTIMIZER)
        )

    def makeup(self, folder: Folder) -> Makeup:
        """Each file under its own name; see `ToolLayout.makeup`."""
        found = Makeup()
        patterns = (_MODEL, _SHARDED_MODEL, _PIPELINE, *_OTHERS, _OPTIMIZER)
        files = sorted(folder.items)
        names = [name for pattern in patterns for name in files if pattern.fullmatch(name)]
        ranks = _ranks(folder, names)
        found.parts = list(_parts(names, ranks))
        missing = list(
            islice((one for one in _expected(names, ranks) if one not in folder.items), _MOST_NAMES)
        )
        named = _TAG.fullmatch(folder.name)
        if named and ranks.step is not None and ranks.step != int(named[1]):
            found.wrong.append(f"its model is of step {ranks.step}, and its name says {int(named[1])}")
        if missing:
            found.missing.append(f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        found.missing += [f"{name} is a link that leads nowhere" for name in folder.dangling()]
        return found


class _Ranks(NamedTuple):
    """How many ranks have saved, by the names and by what the first files say.

    Attributes:
        models: the ranks of model parallelism that saved the model.
        optimizers: those that saved the optimizer; 0 where it is in the model's files.
        data: the ranks of data parallelism.
        is_sharded: whether each of these saved its part of the model: ZeRO-3.
        prefix: what the names of the optimizer's files begin with.
        step: of the first file of the model; None where there is none.
    """

    models: int
    optimizers: int
    data: int
    is_sharded: bool
    prefix: str
    step: int | None


def _ranks(folder: Folder, names: Sequence[str]) -> _Ranks:
    models = [match for one in names if (match := _MODEL.fullmatch(one) or _SHARDED_MODEL.fullmatch(one))]
    optimizers = [match for one in names if (match := _OPTIMIZER.fullmatch(one))]
    of_model = _values(folder, models[0].string) if models else {}
    of_optimizer = (
        _mapping(_values(folder, optimizers[0].string), "optimizer_state_dict") if optimizers else {}
    )
    config = _mapping(_mapping(of_model, "ds_config"), "zero_optimization")
    stage = max(_count(of_optimizer.get("zero_stage")), _count(config.get("stage")))
    is_sharded = stage == _SHARDING_STAGE or any(map(_SHARDED_MODEL.fullmatch, names))
    stated = _count(of_optimizer.get("partition_count")) or (stage and _count(of_model.get("dp_world_size")))
    data = max(
        stated, *(int(one["data"]) + 1 for one in (*models, *optimizers) if "data" in one.groupdict()), 1
    )
    in_models, in_optimizers = (
        max((int(one["model"]) + 1 for one in found), default=0) for found in (models, optimizers)
    )
    has_optimizers = bool(optimizers or stage)
    if not any(map(_LAYER.match, names)):  # the stages of a pipeline are ranks of the optimizer alone
        in_models = max(in_models, in_optimizers, _count(of_model.get("mp_world_size")))
        in_optimizers = in_models
    prefix = optimizers[0]["prefix"] if optimizers else "*"
    step = of_model.get("global_steps")
    return _Ranks(
        max(in_models, 1), in_optimizers * has_optimizers, data, is_sharded, prefix,
        step if type(step) is int else None,
    )  # fmt: skip


def _parts(names: Sequence[str], ranks: _Ranks) -> Iterator[Part]:
    is_whole = ranks.models == 1 and not ranks.is_sharded
    is_whole &= all(_MODEL.fullmatch(one) or _OPTIMIZER.fullmatch(one) for one in names)
    hint = f"{_MERGE}; {_WHOLE}" if is_whole else _MERGE
    for name in names:
        state = name.removesuffix(_EXTENSION).replace("/", ".")
        yield Part(name, state, partial="" if is_whole and _MODEL.fullmatch(name) else hint)


def _expected(names: Sequence[str], ranks: _Ranks) -> Iterator[str]:
    for model in range(ranks.models):
        if ranks.is_sharded:
            yield from (
                f"zero_pp_rank_{one}_mp_rank_{model:02d}_model_states.pt" for one in range(ranks.data)
            )
        else:
            yield f"mp_rank_{model:02d}_model_states.pt"
    for model in range(ranks.optimizers):
        for one in range(ranks.data):
            yield f"{ranks.prefix}zero_pp_rank_{one}_mp_rank_{model:02d}_optim_states.pt"
    layers = [match for one in names if (match := _PIPELINE.fullmatch(one))]
    last = max((int(one["model"]) for one in layers), default=0)
    for layer in dict.fromkeys(one["layer"] for one in layers):
        yield from (f"layer_{layer}-model_{model:02d}-model_states.pt" for model in range(last + 1))


def _values(folder: Folder, name: str) -> Mapping[Any, Any]:
    """What a file holds; nothing where it is damaged, which reading the parts will say."""
    from marlin_ckpt.formats.content.contents import read_contents  # noqa: PLC0415 - names go without

    try:
        with folder.open(name) as source:
            found = read_contents(source).root.origin
    except BadFileError:
        return {}
    return found if isinstance(found, dict) else {}


def _mapping(found: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
    inner = found.get(key)
    return inner if isinstance(inner, dict) else {}


def _count(value: Any) -> int:
    """A number of ranks; the greatest of several, each for a group of parameters; 0 where it is none."""
    if isinstance(value, list):
        return max(map(_count, value), default=0)
    return value if type(value) is int and value > 0 else 0
