"""What weights are written to: a file of safetensors, a bare state dict, or a folder of shards."""

import fnmatch
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from marlin_ckpt.directory import leftovers
from marlin_ckpt.errors import (
    ArgumentsError,
    CorruptCheckpointError,
    Fault,
    StorageError,
    UnsavableStateError,
)
from marlin_ckpt.fields import size_of
from marlin_ckpt.formats.budget import check_json
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.safetensors import shards, writer
from marlin_ckpt.formats.values.checked import Checked
from marlin_ckpt.formats.values.draft import Draft
from marlin_ckpt.formats.zip import state_dict
from marlin_ckpt.naming import SHARDS
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.local import publishing, staging
from marlin_ckpt.storage.local.files import doing
from marlin_ckpt.storage.target import Target
from marlin_ckpt.urls import is_url

SAFETENSORS = "safetensors"
BARE = ("pt", "pth", "bin")


SHARD_BYTES = 5_000_000_000  # the default of huggingface_hub and of transformers 4
_LONGEST_CONFIG = 1 << 24  # bytes
_BLOCK = 1 << 20

# What `from_pretrained` of models, tokenizers and processors reads beside weights. No code is among it.
_CONFIGURATION = (
    "config.json", "adapter_config.json", "generation_config.json", "tokenizer*",
    "special_tokens_map.json", "vocab.json", "vocab.txt", "merges.txt", "*.model", "chat_template.*",
    "preprocessor_config.json", "processor_config.json", "added_tokens.json",
)  # fmt: skip
_MODEL, _ADAPTER = _CONFIGURATION[:2]
_ADAPTERS = "adapter_model.safetensors"  # the one file of weights that PEFT reads beside it
_WRITTEN = (*shards.NAMES, _ADAPTERS, *_CONFIGURATION)


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file that weights are to be written to.

    Attributes:
        path: its extension decides the format.
        force: whether an existing file is replaced.
    """

    path: str
    force: bool = False

    def __post_init__(self) -> None:
        """Raises ArgumentsError: no known format has the extension."""
        if self.extension not in (SAFETENSORS, *BARE):
            known = ", ".join(f".{one}" for one in (SAFETENSORS, *BARE))
            what = f"expected a name that ends in {known}, or a folder, with / at its end, not {self.path}"
            if self.extension == SHARDS:
                what = "weights alone make no sharded checkpoint: add --state all"
            raise ArgumentsError([Fault("output", what)])

    @property
    def extension(self) -> str:
        """The extension of the file, without its dot."""
        return os.path.splitext(self.path)[1].removeprefix(".")

    def check(self) -> None:
        """Checks that the file may be written, before anything is read for it.

        Raises:
            StorageError: it exists already.
        """
        if not self.force and paths.exists(self.path):
            hint = "choose another output, or replace it with --force"
            raise StorageError("is already there", self.path, hint)

    def write(
        self, drafts: Sequence[Draft], about: Manifest | None, metadata: dict[str, str]
    ) -> tuple[int, tuple[str, ...]]:
        """Writes the file whole and durable, or not at all.

        Args:
            drafts: the tensors, each with a name of its own.
            about: the manifest of a bare state dict, without its records; None leaves it out.
            metadata: texts that a safetensors file carries.

        Returns:
            how many bytes the tensors' elements take, where tensors with several names count once; and the
            names of the shards, none for one file.

        Raises:
            StorageError: it cannot be written, or exists already.
            UnsavableStateError: the format cannot hold a name or a dtype.
            MarlinError: a tensor cannot be read.
        """
        self.check()

        def fill(target: Target) -> None:
            if self.extension == SAFETENSORS:
                writer.write(target, drafts, metadata)
            else:
                state_dict.write(target, drafts, about)

        leftovers.sweep_beside(self.path)
        size_bytes = sum(one.size_bytes for one in drafts if not one.same_as)
        paths.publish(self.path, fill, size_bytes, before_renaming=self.check)
        return size_bytes, ()


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
            with doing("cannot read the directory", self.place), os.scandir(self.place) as entries:
                others = sorted(one.name for one in entries if one.is_dir() or not _is_written(one.name))
            if others:
                what = f"is not replaced, since it holds more than weights: {others[0]}"
                raise StorageError(what, self.place, "choose another output")

    def take_configuration(self, file: Checked, *, is_dequantized: bool = False) -> None:
        """Has the configuration and the tokenizer of a folder copied: weights alone make no model.

        Args:
            file: the folder.
            is_dequantized: whether its configuration says how weights are quantized that no longer are.

        Raises:
            CorruptCheckpointError: such a configuration is no JSON.
            StorageError: it cannot be read.
        """
        own = (name for name in file.files if "/" not in name)
        names = [name for name in own if any(fnmatch.fnmatchcase(name, one) for one in _CONFIGURATION)]
        if _MODEL in names or _ADAPTER in names:
            self.copied = {name: functools.partial(_copy, file, name) for name in sorted(names)}
            if is_dequantized and _MODEL in names:
                self.copied[_MODEL] = functools.partial(_put, data=_without_quantization(file))

    def write(
        self, drafts: Sequence[Draft], about: Manifest | None, metadata: dict[str, str]
    ) -> tuple[int, tuple[str, ...]]:
        """Writes the folder whole and durable, or not at all; see `WeightsFile.write`.

        Raises:
            UnsavableStateError: an adapter is larger than a shard, beside what `WeightsFile.write` raises.
        """
        del about  # of which safetensors files have no place
        self.check()
        parts = shards.divide(drafts, self.shard_bytes)
        if _ADAPTER in self.copied and _MODEL not in self.copied:
            if len(parts) > 1:
                hint = "make them larger with --shard-size"
                raise UnsavableStateError("PEFT reads no shards of an adapter", self.place, hint)
            parts = dict.fromkeys([_ADAPTERS], *parts.values())
        leftovers.sweep_beside(self.place)
        publishing.make_directory(os.path.dirname(os.path.abspath(self.place)))
        with staging.new_folder(self.place, overwrite=self.force) as folder:
            for name, part in parts.items():
                fill = functools.partial(writer.write, drafts=part, metadata=metadata)
                publishing.publish(os.path.join(folder, name), fill, _size(part))
            if len(parts) > 1:
                index = shards.index_of(parts, is_model=_MODEL in self.copied)
                publishing.publish(
                    os.path.join(folder, shards.INDEX), functools.partial(_put, data=index), len(index)
                )
            for name, copy in self.copied.items():
                publishing.publish(os.path.join(folder, name), copy, 0)
            self.check()
        return _size(drafts), tuple(parts)


def _is_written(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, one) for one in _WRITTEN)


def _copy(file: Checked, name: str, target: Target) -> None:
    with file.open_file(name) as source:
        for start in range(0, source.size_bytes, _BLOCK):
            target.put(source.read(start, min(_BLOCK, source.size_bytes - start)))


def _without_quantization(file: Checked) -> bytes:
    with file.open_file(_MODEL) as source:
        text = source.read(0, source.size_bytes) if source.size_bytes <= _LONGEST_CONFIG else b"too long"
        check_json(text, source.path)
        try:
            found = json.loads(text)
            found.pop("quantization_config", None)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptCheckpointError(f"no configuration: {error}", source.path) from error
    return json.dumps(found, indent=2).encode()


def _put(target: Target, data: bytes) -> None:
    target.put(data)


def _size(drafts: Sequence[Draft]) -> int:
    return sum(one.size_bytes for one in drafts if not one.same_as)


Output = WeightsFile | WeightsFolder


def output(path: str, shard_size: str | None = None, *, force: bool = False) -> Output:
    """What a user names as the output: a folder where it ends in a slash or has shards, else a file.

    Args:
        path: that the user gave.
        shard_size: as `fields.size_of` reads it; None leaves the default.
        force: whether what exists is replaced.

    Raises:
        ArgumentsError: no known format has the extension, or shards are wanted of a file.
    """
    if shard_size is None and not path.endswith("/"):
        return WeightsFile(path, force)
    extension = os.path.splitext(path)[1].removeprefix(".")
    if extension in (SAFETENSORS, *BARE):
        what = f"expected the name of a folder, since only a folder has shards, not {path}"
        raise ArgumentsError([Fault("output", what)])
    if is_url(path):
        what = "a folder of shards is not written to an object store in this version: name a file or a disk"
        raise ArgumentsError([Fault("output", what)])
    return WeightsFolder(path, force, SHARD_BYTES if shard_size is None else size_of(shard_size))
