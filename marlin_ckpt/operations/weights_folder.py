"""The folder of weights that `from_pretrained` reads: safetensors, with an index where there are shards.

Source: `transformers.modeling_utils.save_pretrained` and `huggingface_hub.serialization`: the names, the
index and how tensors are divided among shards are theirs.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from marlin_ckpt.directory import leftovers
from marlin_ckpt.errors import StorageError
from marlin_ckpt.formats.safetensors import writer
from marlin_ckpt.formats.values import dtypes
from marlin_ckpt.formats.values.draft import Draft
from marlin_ckpt.storage.local import publishing, staging
from marlin_ckpt.storage.local.files import doing

if TYPE_CHECKING:
    from marlin_ckpt.formats.manifest import Manifest
    from marlin_ckpt.formats.values.checked import Checked
    from marlin_ckpt.storage.target import Target

SHARD_BYTES = 5_000_000_000  # the default of huggingface_hub and of transformers 4
_STEM = "model"
_INDEX = f"{_STEM}.safetensors.index.json"
_BLOCK = 1 << 20

# What `from_pretrained` of models, tokenizers and processors reads beside weights. No code is among it.
_CONFIGURATION = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "*.model", "chat_template.*", "preprocessor_config.json",
    "processor_config.json",
)  # fmt: skip
_WRITTEN = (f"{_STEM}.safetensors", f"{_STEM}-?????-of-?????.safetensors", _INDEX, *_CONFIGURATION)


@dataclass(slots=True)
class WeightsFolder:
    """A folder that weights are to be written to.

    Attributes:
        path: of the folder, as it was given.
        force: whether an existing folder of weights is replaced.
        shard_bytes: how many bytes of elements a shard has at most; a larger tensor is a shard of its own.
        copied: the files that are copied into it, each with what fills it, by their names.
    """

    path: str
    force: bool = False
    shard_bytes: int = SHARD_BYTES
    copied: Mapping[str, Callable[[Target], None]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The path without a slash at its end, which would have a link of that name followed."""
        return self.path.rstrip("/") or self.path

    def check(self) -> None:
        """Checks that the folder may be written, before anything is read for it.

        Raises:
            StorageError: it exists already, or holds what no export has written.
        """
        if not os.path.lexists(self.place):
            return
        if not self.force:
            hint = "choose another output, or replace the folder with --force"
            raise StorageError("is already there", self.place, hint)
        if os.path.isdir(self.place):
            with doing("cannot read the directory", self.place):
                names = sorted(os.listdir(self.place))
            others = [name for name in names if not _is_written(name)]
            if others:
                what = f"is not replaced, since it holds more than weights: {others[0]}"
                raise StorageError(what, self.place, "choose another output")

    def take_configuration(self, file: Checked) -> None:
        """Has the configuration and the tokenizer of a folder copied: weights alone make no model."""
        names = [name for name in file.files if any(fnmatch.fnmatchcase(name, one) for one in _CONFIGURATION)]
        if "config.json" in names:
            self.copied = {name: functools.partial(_copy, file, name) for name in sorted(names)}

    def write(
        self, drafts: Sequence[Draft], about: Manifest | None, metadata: dict[str, str]
    ) -> tuple[int, tuple[str, ...]]:
        """Writes the folder whole and durable, or not at all; see `WeightsFile.write`."""
        del about  # of which safetensors files have no place
        self.check()
        shards = divide(drafts, self.shard_bytes)
        leftovers.sweep_beside(self.place)
        publishing.make_directory(os.path.dirname(os.path.abspath(self.place)))
        with staging.new_folder(self.place, overwrite=self.force) as folder:
            for name, part in shards.items():
                fill = functools.partial(writer.write, drafts=part, metadata=metadata)
                publishing.publish(os.path.join(folder, name), fill, _size(part))
            if len(shards) > 1:
                index = index_of(shards)
                publishing.publish(
                    os.path.join(folder, _INDEX), functools.partial(_put, data=index), len(index)
                )
            for name, copy in self.copied.items():
                publishing.publish(os.path.join(folder, name), copy, 0)
            self.check()
        return _size(drafts), tuple(shards)


def _is_written(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, one) for one in _WRITTEN)


def _copy(file: Checked, name: str, target: Target) -> None:
    with file.open_file(name) as source:
        for start in range(0, source.size_bytes, _BLOCK):
            target.put(source.read(start, min(_BLOCK, source.size_bytes - start)))


def _put(target: Target, data: bytes) -> None:
    target.put(data)


def _size(drafts: Sequence[Draft]) -> int:
    return sum(one.size_bytes for one in drafts if not one.same_as)


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


def index_of(shards: Mapping[str, Sequence[Draft]]) -> bytes:
    """The index of shards, to the byte as transformers writes it."""
    kept = {one.name: (name, one) for name, shard in shards.items() for one in shard if not one.same_as}
    items = (one.size_bytes // (dtypes.dtype(one.dtype).item_bytes or 1) for _, one in kept.values())
    metadata = {
        "total_parameters": sum(items),
        "total_size": sum(one.size_bytes for _, one in kept.values()),
    }
    index = {"metadata": metadata, "weight_map": {tensor: name for tensor, (name, _) in kept.items()}}
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()
