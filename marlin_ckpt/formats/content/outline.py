"""What a file holds, without torch, without running any of it, and without reading a tensor's data."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from marlin_ckpt.errors import BadFileError, CorruptCheckpointError, StorageError
from marlin_ckpt.formats import legacy
from marlin_ckpt.formats.budget import LARGEST_PICKLE, Budget
from marlin_ckpt.formats.content.tree import Builder, Kind, MakeTensor, Node
from marlin_ckpt.formats.format import Format, format_of
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.pickle.permissions import python_3_name
from marlin_ckpt.formats.pickle.stubs import StubReader
from marlin_ckpt.formats.pickle.views import View
from marlin_ckpt.formats.safetensors import header as safetensors
from marlin_ckpt.formats.values.tensor import Tensor
from marlin_ckpt.formats.zip import reader
from marlin_ckpt.formats.zip.container import Container
from marlin_ckpt.formats.zip.records import read_record
from marlin_ckpt.storage.source import Source

__all__ = ["Kind", "Node", "Outline", "Tensor", "read_outline"]

_LONGEST_ORDER = 16  # bytes of the record `byteorder`, which says little or big


@dataclass(frozen=True, slots=True)
class Outline:
    """What a file holds.

    Attributes:
        path: the file.
        format: how it is encoded.
        size_bytes: the file's length.
        root: the tree.
        tensors: in the file's order; one that stands in several places is there for each.
        imports: `module.name` of all that unpickling would import, sorted, in the names of Python 3.
        numpy_types: the codes of the numpy dtypes in it, `f8`, sorted.
        container: the structure of a zip; None of other formats.
    """

    path: str
    format: Format
    size_bytes: int
    root: Node
    tensors: tuple[Tensor, ...]
    imports: tuple[str, ...] = ()
    numpy_types: tuple[str, ...] = ()
    container: Container | None = None

    @property
    def manifest(self) -> Manifest | None:
        """Ours; None in a file by another tool."""
        return None if self.container is None else self.container.manifest


def read_outline(source: Source) -> Outline:
    """Reads the structure and the pickle, or the header, and nothing else.

    Args:
        source: the file.

    Raises:
        CorruptCheckpointError: bytes are missing or changed, or the pickle cannot be read.
        NotACheckpointError: it is something else.
        UnknownFormatError: a newer marlin-ckpt wrote it.
        UnsafeCheckpointError: it would take more time or memory than any of its length that a tool wrote.
        StorageError: it cannot be read.
    """
    try:
        return _OUTLINES[format_of(source)](source)
    except (BadFileError, StorageError):
        raise
    except MemoryError as error:
        raise StorageError("not enough memory to look into the file", source.path) from error
    except Exception as error:
        # A pickle that lies raises anything.
        what = f"cannot be unpickled: {str(error)[:200] or type(error).__name__}"
        raise CorruptCheckpointError(what, source.path) from error


def _of_zip(source: Source) -> Outline:
    container = reader.read_saved(source)
    records = container.by_label
    record = records["data.pkl"]
    file = io.BytesIO()
    budget = Budget(file.tell, source.path)
    if record.size > LARGEST_PICKLE:
        budget.refuse(f"its pickle has {record.size} bytes")
    file.write(read_record(source, container, record))
    file.seek(0)
    unpickler = StubReader(file, budget, encoding="utf-8", errors="surrogateescape")
    state = unpickler.load()
    order = "little"  # torch before 2.1 did not say, and wrote elements as its machine had them
    said = records.get("byteorder")
    if said is not None and said.size <= _LONGEST_ORDER and read_record(source, container, said) == b"big":
        order = "big"

    def make_tensor(name: str, view: View) -> Tensor:
        data = records.get(f"data/{view.storage.key}")
        if data is None:
            return _tensor(name, view, 0, 0, order)
        tensor = _tensor(name, view, container.data_offsets[data.name], data.size, order)
        return tensor if data.deflated_bytes is None else replace(tensor, record=data)

    return _of_pickle(source, state, unpickler, make_tensor, container)


def _of_legacy(source: Source) -> Outline:
    state, unpickler, places = legacy.read_legacy(source)

    def make_tensor(name: str, view: View) -> Tensor:
        return _tensor(name, view, *places.get(view.storage.key, (0, 0)))

    return _of_pickle(source, state, unpickler, make_tensor)


def _of_pickle(
    source: Source,
    state: Any,
    unpickler: StubReader,
    make_tensor: MakeTensor,
    container: Container | None = None,
) -> Outline:
    builder = Builder(make_tensor, unpickler.budget)
    root = builder.build(state)
    imports = sorted({".".join(python_3_name(*name)) for name in unpickler.names})
    file_format = Format.LEGACY if container is None else Format.ZIP
    return Outline(
        source.path, file_format, source.size_bytes, root, tuple(builder.tensors), tuple(imports),
        tuple(sorted(builder.numpy_types)), container,
    )  # fmt: skip


def _tensor(name: str, view: View, start: int, size: int, order: str = "little") -> Tensor:
    key = view.storage.key
    return Tensor(name, view.dtype, view.shape, view.stride, view.offset, key, start, size, order)


def _of_safetensors(source: Source) -> Outline:
    header = safetensors.read_header(source)
    nodes = [Node(tensor.name, Kind.TENSOR, tensor=tensor) for tensor in header.tensors]
    if header.metadata:
        texts = [Node(key, Kind.VALUE, value=text) for key, text in header.metadata.items()]
        nodes.insert(0, Node("__metadata__", Kind.MAPPING, children=texts))
    root = Node("", Kind.MAPPING, children=nodes)
    return Outline(source.path, Format.SAFETENSORS, source.size_bytes, root, tuple(header.tensors))


_OUTLINES: dict[Format, Callable[[Source], Outline]] = {
    Format.ZIP: _of_zip,
    Format.LEGACY: _of_legacy,
    Format.SAFETENSORS: _of_safetensors,
}
