"""The file of weights that other tools read: safetensors, or a bare state dict."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from marlin_ckpt.directory import leftovers
from marlin_ckpt.errors import ArgumentsError, Fault, StorageError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.safetensors import writer
from marlin_ckpt.formats.values.draft import Draft
from marlin_ckpt.formats.zip import state_dict
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
            raise ArgumentsError([Fault("output", f"expected a name that ends in {known}, not {self.path}")])

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
    file: WeightsFile, drafts: Sequence[Draft], about: Manifest | None, metadata: dict[str, str]
) -> int:
    """Writes a file whole and durable, or not at all.

    Args:
        file: the new file.
        drafts: the tensors, each with a name of its own.
        about: the manifest of a bare state dict, without its records; None leaves it out.
        metadata: texts that a safetensors file carries.

    Returns:
        how many bytes the tensors' elements take; tensors with several names count once.

    Raises:
        StorageError: it cannot be written, or exists already.
        UnsavableStateError: the format cannot hold a name or a dtype.
        MarlinError: a tensor cannot be read.
    """
    file.check()

    def fill(target: Target) -> None:
        if file.extension == SAFETENSORS:
            writer.write(target, drafts, metadata)
        else:
            state_dict.write(target, drafts, about)

    leftovers.sweep_beside(file.path)
    size_bytes = sum(one.size_bytes for one in drafts if not one.same_as)
    publish(file.path, fill, size_bytes, before_renaming=file.check)
    return size_bytes
