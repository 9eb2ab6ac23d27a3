"""What the tests of torch's Distributed Checkpoint do with a folder."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as values
from torch.distributed.checkpoint.filesystem import _StorageInfo

from marlin_ckpt.directory import catalog
from marlin_ckpt.entries import Entry
from marlin_ckpt.formats.verdicts import Verdict
from marlin_ckpt.operations import one


def entry_of(folder: Path) -> Entry:
    found = catalog.entry(folder)
    assert found is not None
    return found


def verified(folder: Path) -> Verdict:
    return one.verify(folder)


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    with one.opened(str(folder)) as checked:
        return {
            each.name: torch.from_numpy(checked.values(each).copy()).reshape(each.shape)
            for each in checked.contents.tensors
        }


def metadata_of(folder: Path) -> Any:
    return pickle.loads((folder / ".metadata").read_bytes())


def rewrite(folder: Path, metadata: Any) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def flip(path: Path, at: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def write_pieces(folder: Path, tensors: dict[str, tuple[torch.Tensor, tuple[int, ...]]]) -> None:
    """Writes a folder as DCP does, a file for each piece of a tensor.

    Args:
        folder: To be made.
        tensors: Each with the numbers of parts that it is cut in, one for each dimension.
    """
    folder.mkdir(parents=True)
    described, stored = {}, {}
    for name, (whole, cuts) in tensors.items():
        pieces: list[tuple[tuple[int, ...], torch.Tensor]] = [((), whole)]
        for dim, count in enumerate(cuts):
            cut, pieces = pieces, []
            for begin, piece in cut:
                at = 0
                for part in torch.chunk(piece, count, dim):
                    pieces.append(((*begin, at), part))
                    at += part.shape[dim]
        chunks = []
        for number, (begin, piece) in enumerate(pieces):
            file = io.BytesIO()
            torch.save(piece.clone(memory_format=torch.contiguous_format), file)
            written = f"__{len(stored)}_0.distcp"
            (folder / written).write_bytes(file.getvalue())
            chunks.append(values.ChunkStorageMetadata(torch.Size(begin), piece.size()))
            index = values.MetadataIndex(name, torch.Size(begin), number)
            stored[index] = _StorageInfo(written, 0, len(file.getvalue()))
        properties = values.TensorProperties.create_from_tensor(whole)
        described[name] = values.TensorStorageMetadata(properties, whole.size(), chunks)
    metadata = values.Metadata(described, {name: (name,) for name in tensors}, stored)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
