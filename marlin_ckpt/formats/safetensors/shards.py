"""Divides tensors among the files of a folder, and writes the index of these, for `from_pretrained`.

Source: `huggingface_hub.serialization` and `transformers.modeling_utils.save_pretrained`, whose names, index
and division these are.
"""

import json
from collections.abc import Mapping, Sequence

from marlin_ckpt.formats.values import dtypes
from marlin_ckpt.formats.values.draft import Draft

_STEM = "model"
INDEX = f"{_STEM}.safetensors.index.json"
NAMES = f"{_STEM}.safetensors", f"{_STEM}-?????-of-?????.safetensors", INDEX  # as fnmatch reads them


def divide(drafts: Sequence[Draft], shard_bytes: int) -> dict[str, list[Draft]]:
    """Divides tensors among shards as `split_torch_state_dict_into_shards` does, in their order.

    Further names of a tensor go with it.

    Returns:
        the tensors of each shard, by the name of its file.
    """
    shards: list[list[Draft]] = []
    current: list[Draft] = []
    size = 0
    for one in drafts:
        if one.same_as:
            continue
        if one.size_bytes > shard_bytes:
            shards.append([one])
            continue
        if current and size + one.size_bytes > shard_bytes:
            shards.append(current)
            current, size = [], 0
        current.append(one)
        size += one.size_bytes
    if current:
        shards.append(current)
    places = {one.name: shard for shard in shards for one in shard}
    for one in drafts:
        if one.same_as:
            places[one.same_as].append(one)
    if len(shards) == 1:
        return {f"{_STEM}.safetensors": shards[0]}
    return {f"{_STEM}-{at:05d}-of-{len(shards):05d}.safetensors": one for at, one in enumerate(shards, 1)}


def index_of(shards: Mapping[str, Sequence[Draft]], *, is_model: bool) -> bytes:
    """The index of shards, to the byte as transformers writes it.

    Args:
        shards: the tensors of each, by the name of its file.
        is_model: whether `config.json` stands beside it. Transformers 5, which always writes it, counts
            parameters, too: where an index has a count, that file is missed.
    """
    kept = {one.name: (name, one) for name, shard in shards.items() for one in shard if not one.same_as}
    items = sum(one.size_bytes // (dtypes.dtype(one.dtype).item_bytes or 1) for _, one in kept.values())
    metadata = {"total_parameters": items} if is_model else {}
    metadata["total_size"] = sum(one.size_bytes for _, one in kept.values())
    index = {"metadata": metadata, "weight_map": {tensor: name for tensor, (name, _) in kept.items()}}
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()
