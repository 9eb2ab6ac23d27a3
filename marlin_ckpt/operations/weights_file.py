"""What weights are written to: a file of safetensors, a bare state dict, or a folder of shards."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from marlin_ckpt.directory import leftovers
from marlin_ckpt.errors import ArgumentsError, Fault, StorageError
from marlin_ckpt.fields import size_of
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.safetensors import writer
from marlin_ckpt.formats.values.draft import Draft
from marlin_ckpt.formats.zip import state_dict
from marlin_ckpt.operations.weights_folder import SHARD_BYTES, WeightsFolder
from marlin_ckpt.storage.local.publishing import publish
from marlin_ckpt.storage.target import Target

SAFETENSORS = "safetensors"
BARE = ("pt", "pth", "bin")


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
        if not self.force and os.path.lexists(self.path):
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
        publish(self.path, fill, size_bytes, before_renaming=self.check)
        return size_bytes, ()


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
    return WeightsFolder(path, force, SHARD_BYTES if shard_size is None else size_of(shard_size))
