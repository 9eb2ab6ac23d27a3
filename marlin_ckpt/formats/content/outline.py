"""What a file holds, without torch, without running any of it, and without reading a tensor's data."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from marlin_ckpt.errors import (
    BadFileError,
    CorruptCheckpointError,
    NotACheckpointError,
    StorageError,
)
from marlin_ckpt.formats import legacy
from marlin_ckpt.formats.budget import LARGEST_PICKLE, Budget
from marlin_ckpt.formats.content.tree import Builder, Kind, Node
from marlin_ckpt.formats.format import Format, format_of
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.pickle.permissions import python_3_name
from marlin_ckpt.formats.pickle.stubs import StubReader
from marlin_ckpt.formats.pickle.views import View
from marlin_ckpt.formats.safetensors import header as safetensors
from marlin_ckpt.formats.values.tensor import Tensor
from marlin_ckpt.formats.zip import reader
from marlin_ckpt.formats.zip.reader import Container
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
        manifest: ours, or None in a file by another tool.
        root: the tree.
        tensors: in the file's order; one that stands in several places is there for each.
        imports: `module.name` of all that unpickling would import, sorted, in the names of Python 3.
        numpy_types: the codes of the numpy dtypes in it, `f8`, sorted.
    """

    path: str
    format: Format
    size_bytes: int
    manifest: Manifest | None
    root: Node
    tensors: tuple[Tensor, ...]
    imports: tuple[str, ...]
    numpy_types: tuple[str, ...] = ()


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
    of = _OUTLINES[format_of(source)]
    try:
        return of(source)
    except (BadFileError, StorageError):
        raise
    except MemoryError as error:
        raise StorageError("not enough memory to look into the file", source.path) from error
    except Exception as error:
        # A pickle that lies raises anything.
        what = f"cannot be unpickled: {str(error)[:200] or type(error).__name__}"
        raise CorruptCheckpointError(what, source.path) from error


def _of_zip(source: Source) -> Outline:
    container = reader.read_container(source)
    records = {record.name: record for record in container.records}
    if any(name.endswith("/constants.pkl") for name in records):
        raise NotACheckpointError("not a checkpoint but a TorchScript archive", source.path)
    record = next(one for name, one in records.items() if name.partition("/")[2] == "data.pkl")
    file = io.BytesIO()
    budget = Budget(file.tell, source.path)
    if record.size > LARGEST_PICKLE:
        budget.refuse(f"its pickle has {record.size} bytes")
    file.write(read_record(source, container, record))
    file.seek(0)
    unpickler = StubReader(file, budget, encoding="utf-8", errors="surrogateescape")
    state = unpickler.load()
    archive = record.name.partition("/")[0]
    order = _byteorder(source, container, f"{archive}/byteorder")

    def make_tensor(name: str, view: View) -> Tensor:
        key = view.storage.key
        data = records.get(f"{archive}/data/{key}")
        start = container.data_offsets[data.name] if data else 0
        tensor = _tensor(name, view, start, data.size if data else 0, order)
        return tensor if data is None or data.deflated_bytes is None else replace(tensor, record=data)

    builder = Builder(make_tensor, budget)
    root = builder.build(state)
    size = source.size_bytes
    return Outline(
        source.path, Format.ZIP, size, container.manifest, root, tuple(builder.tensors),
        _imports(unpickler.names), _sorted(builder.numpy_types),
    )  # fmt: skip


def _byteorder(source: Source, container: Container, name: str) -> str:
    """How the elements lie; torch before 2.1 did not say, and wrote them as its machine had them."""
    for record in container.records:
        if record.name == name and record.size <= _LONGEST_ORDER:
            return "big" if read_record(source, container, record) == b"big" else "little"
    return "little"


def _of_legacy(source: Source) -> Outline:
    size = source.size_bytes
    found = legacy.read_legacy(source)

    def make_tensor(name: str, view: View) -> Tensor:
        return _tensor(name, view, *found.places.get(view.storage.key, (0, 0)))

    builder = Builder(make_tensor, found.budget)
    root = builder.build(found.state)
    return Outline(
        source.path, Format.LEGACY, size, None, root, tuple(builder.tensors),
        _imports(found.names), _sorted(builder.numpy_types),
    )  # fmt: skip


def _imports(names: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return _sorted({".".join(python_3_name(*name)) for name in names})


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def _tensor(name: str, view: View, start: int, size: int, order: str = "little") -> Tensor:
    key = view.storage.key
    return Tensor(name, view.dtype, view.shape, view.stride, view.offset, key, start, size, order)


def _of_safetensors(source: Source) -> Outline:
    header = safetensors.read_header(source)
    tensors = safetensors.tensors(header, source.path)
    nodes = [Node(tensor.name, Kind.TENSOR, tensor=tensor) for tensor in tensors]
    if header.metadata:
        texts = [Node(key, Kind.VALUE, value=text) for key, text in header.metadata.items()]
        nodes.insert(0, Node("__metadata__", Kind.MAPPING, children=texts))
    root = Node("", Kind.MAPPING, children=nodes)
    return Outline(source.path, Format.SAFETENSORS, source.size_bytes, None, root, tuple(tensors), ())


_OUTLINES: dict[Format, Callable[[Source], Outline]] = {
    Format.ZIP: _of_zip,
    Format.LEGACY: _of_legacy,
    Format.SAFETENSORS: _of_safetensors,
}
