"""Verifies checkpoints of marlin-ckpt with Python's standard library alone, and lists what is in them.

It is written from docs/reference/FORMAT.md, as a reader in another language would be:
`python examples/read_checkpoint PATH...` says of each file or folder whether it is intact, and lists the
tensors or files in it. It knows what marlin-ckpt writes, not what other tools make of it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, BinaryIO

from container import (
    BadCheckpointError,
    check_layout,
    check_manifest,
    crc32_of,
    read,
    read_directory,
    read_manifest,
)
from state import Machine, Tensor, tensors_in


class Checkpoint:
    """A file that was verified when this was made.

    Attributes:
        manifest: its manifest.
        state: what is pickled in it.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Verifies the file, which has to stay open as long as bytes are asked for.

        Raises:
            BadCheckpointError: it is not intact.
        """
        records, start = read_directory(file)
        if not {"archive/data.pkl", "archive/.marlin/manifest.json"} <= {one.name for one in records}:
            raise BadCheckpointError("not a checkpoint by marlin-ckpt")
        places = check_layout(file, records, start)
        for one in records:
            if crc32_of(file, places[one.name], one.size) != one.crc32:
                raise BadCheckpointError(f"the CRC32 of {one.name} does not hold")
        self._file = file
        self._places = {one.name.partition("/")[2]: (places[one.name], one.size) for one in records}
        self.manifest = read_manifest(self._read(".marlin/manifest.json"))
        check_manifest(self.manifest, records)
        self.state: Any = Machine(self._read("data.pkl")).run()
        for name, one in tensors_in(self.state):
            label = f"data/{one.storage.key}"
            expected = one.storage.numel * one.storage.item_bytes
            if label not in self._places or self._places[label][1] != expected:
                raise BadCheckpointError(f"{label}, the record of {name}, is missing or of another length")

    def bytes_of(self, tensor: Tensor) -> bytes:
        """The elements of a tensor, one after the other, the last index the fastest."""
        return tensor.gathered(self._read(f"data/{tensor.storage.key}"))

    def _read(self, label: str) -> bytes:
        return read(self._file, *self._places[label])


def verify_folder(folder: Path) -> dict[str, Any]:
    """Verifies a folder that is a checkpoint, and returns its manifest."""
    path = folder / ".marlin" / "manifest.json"
    if path.is_symlink() or not path.is_file():
        raise BadCheckpointError("not a checkpoint by marlin-ckpt: it has no manifest")
    manifest = read_manifest(path.read_bytes())
    if manifest.get("layout") != "folder":
        raise BadCheckpointError("another layout: a newer reader is needed")
    for name, size, crc32 in manifest["records"]:
        member = folder / name
        if any(part in ("", ".", "..") for part in name.split("/")) or name == ".marlin/manifest.json":
            raise BadCheckpointError(f"the manifest lists what is no file of it: {name}")
        inside = [folder.joinpath(*name.split("/")[:depth]) for depth in range(1, name.count("/") + 2)]
        if any(one.is_symlink() for one in inside) or not member.is_file():
            raise BadCheckpointError(f"{name} is missing, or a link")
        with member.open("rb") as file:
            if member.stat().st_size != size or crc32_of(file, 0, size) != crc32:
                raise BadCheckpointError(f"{name} is not what was saved")
    return manifest


def shown(path: Path) -> list[str]:
    """The lines to print of a checkpoint that is intact."""
    if path.is_dir():
        manifest = verify_folder(path)
        inside = [f"{name}  {size} bytes" for name, size, _ in manifest["records"]]
    else:
        with path.open("rb") as file:
            found = Checkpoint(file)
        manifest = found.manifest
        inside = [f"{name}  {one.dtype} {list(one.shape)}" for name, one in tensors_in(found.state)]
    about = (
        f"intact: {manifest['kind']} {manifest['index']} of run {manifest['run_id']}, {manifest['created']}"
    )
    return [about, *inside]


def main(*paths: str) -> int:
    """Prints what is found of each path; returns 3 where one is not intact."""
    code = 0
    for path in paths:
        try:
            lines = shown(Path(path))
        except BadCheckpointError as error:
            lines, code = [f"bad: {error}"], 3
        print(f"{path}: " + "\n  ".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
