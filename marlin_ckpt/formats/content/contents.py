"""What a file holds, without torch, without running any of it, and without reading a tensor's data."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.budget import LARGEST_PICKLE, Budget
from marlin_ckpt.formats.content.node import Node, NodeKind
from marlin_ckpt.formats.content.tree import Builder, FindModule
from marlin_ckpt.formats.format import Format, format_of
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.pickle.modules import module_of
from marlin_ckpt.formats.pickle.permissions import python_3_name
from marlin_ckpt.formats.pickle.reader import unpickling
from marlin_ckpt.formats.pickle.stubs import StubReader
from marlin_ckpt.formats.pickle.views import View
from marlin_ckpt.formats.values.tensor import TensorInfo
from marlin_ckpt.formats.values.unused import unused_bytes
from marlin_ckpt.formats.values.window import Memory
from marlin_ckpt.formats.zip import reader
from marlin_ckpt.formats.zip.container import Container
from marlin_ckpt.formats.zip.records import read_record
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.source import Source

__all__ = ["METADATA", "Contents", "Node", "NodeKind", "TensorInfo", "read_contents"]

# Of a storage's data: where it starts, how many bytes it has, their order, and the record if it is deflated.
_Place = tuple[int, int, str, Record | None]
METADATA = "__metadata__"  # under which the texts of a safetensors file are in the tree, as in its header
_MOST_CODE = 32 << 20  # bytes of the texts of a TorchScript archive's classes
_LONGEST_ORDER = 16  # bytes of the record `byteorder`, which says little or big


class Contents(NamedTuple):
    """What a checkpoint holds, without the data of its tensors.

    `{one.name: one.shape for one in contents.tensors}` are its tensors.

    Attributes:
        path: the file or folder.
        format: how the file is encoded; of a folder, the name of its layout.
        size_bytes: its size in bytes; of a folder, of all its files together.
        root: the tree of everything in it.
        tensors: the tensors in the file's order. A tensor that is in several places of the tree is in here
            for each.
        imports: what unpickling the file would import, as `module.name`, sorted, in the names of Python 3.
        numpy_types: the codes of the numpy dtypes in it, such as `f8`, sorted.
        container: the structure of a zip; None for other formats.
        parts: of a folder, the name in it and the contents of each of its files.
        gaps: what is missing in a folder or does not fit together, one sentence each.
        unused_bytes: bytes of data that belong to no element of any tensor, such as the rest of a large
            tensor of which a slice was saved.
        tools_metrics: those that the tool which wrote a folder keeps in it; None of a file.
        folder_manifest: of a sharded checkpoint, the manifest in it.
    """

    path: str
    format: str
    size_bytes: int
    root: Node
    tensors: tuple[TensorInfo, ...]
    imports: tuple[str, ...] = ()
    numpy_types: tuple[str, ...] = ()
    container: Container | None = None
    parts: tuple[tuple[str, Contents], ...] = ()
    gaps: tuple[str, ...] = ()
    unused_bytes: int = 0
    tools_metrics: Mapping[str, float] | None = None
    folder_manifest: Manifest | None = None

    def __repr__(self) -> str:
        return (
            f"Contents(path={self.path!r}, format={self.format!r}, size_bytes={self.size_bytes}, "
            f"{len(self.tensors)} tensors, manifest={self.manifest!r})"
        )

    @property
    def formats(self) -> frozenset[str]:
        """Its format; of a folder those of its files."""
        if not self.parts:
            return frozenset([self.format])
        return frozenset().union(*(one.formats for _, one in self.parts))

    @property
    def is_torch_script(self) -> bool:
        """Whether it is an archive of `torch.jit.save`, which `torch.jit.load` reads."""
        return self.container is not None and reader.is_torch_script(self.container)

    @property
    def manifest(self) -> Manifest | None:
        """The manifest; None if marlin-ckpt did not write it, and of a folder that is not sharded."""
        return self.folder_manifest if self.container is None else self.container.manifest


def read_contents(source: Source) -> Contents:
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
    with unpickling(source.path):
        return _READERS[format_of(source)](source)


class _Data(NamedTuple):
    """The data that a pickle's storages are made of.

    Attributes:
        format: of the file.
        place_of: finds it by the key of a storage.
        container: of a zip.
        find_module: makes out its modules.
    """

    format: Format
    place_of: Callable[[str], _Place]
    container: Container | None = None
    find_module: FindModule = module_of


def _of_zip(source: Source) -> Contents:
    container = reader.read_container(source)
    records = container.by_label
    record = records["data.pkl"]
    file = io.BytesIO()
    budget = Budget(file.tell, source.path)
    if record.size > LARGEST_PICKLE:
        budget.refuse(f"its pickle has {record.size} bytes")
    file.write(read_record(source, container, record))
    file.seek(0)
    unpickler = StubReader(file, budget)
    state = unpickler.load()
    order = _order(source, container)

    def place_of(key: str) -> _Place:
        data = records.get(f"data/{key}")
        if data is None:
            return 0, 0, order, None
        deflated = None if data.deflated_bytes is None else data
        return container.data_offsets[data.name], data.size, order, deflated

    data = _Data(Format.ZIP, place_of, container)
    if reader.is_torch_script(container):
        from marlin_ckpt.formats.pickle.scripted import ScriptedModules  # noqa: PLC0415 - few files are

        data = data._replace(find_module=ScriptedModules(_code_of(source, container)).find)
    return _of_pickle(source, state, unpickler, data)


def tensors_of(data_pkl: bytes, sizes: Mapping[str, int]) -> tuple[TensorInfo, ...]:
    """The tensors of a file that is not written yet, by the names that it will have for them.

    Args:
        data_pkl: its pickle.
        sizes: the lengths of its storages in bytes, by their keys. Where they start is said to be 0.

    Raises:
        BadFileError: the pickle cannot be read, or would take too long to.
    """
    source = Memory("", memoryview(data_pkl))
    with unpickling(source.path):
        unpickler = StubReader(io.BytesIO(data_pkl), Budget(lambda: len(data_pkl)))
        data = _Data(Format.ZIP, lambda key: (0, sizes.get(key, 0), sys.byteorder, None))
        return _of_pickle(source, unpickler.load(), unpickler, data).tensors


def _code_of(source: Source, container: Container) -> Callable[[str], str]:
    """Reads texts of the classes of a TorchScript archive, no more in all than the code of any has."""
    left = _MOST_CODE
    records = container.by_label

    def read(name: str) -> str:
        nonlocal left
        record = records.get(f"code/{name}")
        if record is None or record.size > left:
            return ""
        left -= record.size
        return read_record(source, container, record).decode("utf-8", "replace")

    return read


def _order(source: Source, container: Container) -> str:
    """The order of bytes in elements; raises CorruptCheckpointError where none is said."""
    said = container.by_label.get("byteorder")
    if said is None:
        return "little"  # torch before 2.1 did not say, and wrote elements as its machine had them
    data = read_record(source, container, said) if said.size <= _LONGEST_ORDER else b""
    if data not in (b"little", b"big"):  # torch refuses it, too
        raise CorruptCheckpointError("the record byteorder says neither little nor big", source.path)
    return data.decode()


def _of_legacy(source: Source) -> Contents:
    from marlin_ckpt.formats import legacy  # noqa: PLC0415 - most files are zips

    state, unpickler, places = legacy.read_legacy(source)

    def place_of(key: str) -> _Place:
        return (*places.get(key, (0, 0)), "little", None)

    return _of_pickle(source, state, unpickler, _Data(Format.LEGACY, place_of))


def _of_bare_pickle(source: Source) -> Contents:
    from marlin_ckpt.formats import bare  # noqa: PLC0415 - as above

    state, unpickler = bare.read_bare(source)
    nowhere = _Data(Format.PICKLE, lambda _: (0, 0, "little", None))
    return _of_pickle(source, state, unpickler, nowhere)


def _of_pickle(source: Source, state: Any, unpickler: StubReader, data: _Data) -> Contents:
    def make_tensor(name: str, view: View) -> TensorInfo:
        key = view.storage.key
        return TensorInfo(name, view.dtype, view.shape, view.stride, view.offset, key, *data.place_of(key))

    builder = Builder(make_tensor, unpickler.budget, data.find_module)
    root = builder.build(state)
    is_script = data.container is not None and reader.is_torch_script(data.container)
    unused = unused_bytes(builder.tensors)
    if data.container is not None:
        known = {f"data/{key}" for key in unpickler.storages}
        records = data.container.by_label
        unused += sum(
            one.size for key, one in records.items() if key.startswith("data/") and key not in known
        )
    names: Iterable[tuple[str, str]] = unpickler.names
    if is_script:
        from marlin_ckpt.formats.pickle.scripted import is_own  # noqa: PLC0415 - as above

        names = [name for name in names if not is_own(name[0])]
    imports = sorted({".".join(python_3_name(*name)) for name in names})
    return Contents(
        source.path, data.format, source.size_bytes, root, tuple(builder.tensors), tuple(imports),
        tuple(sorted(builder.numpy_types)), data.container, unused_bytes=unused,
    )  # fmt: skip


def _of_safetensors(source: Source) -> Contents:
    from marlin_ckpt.formats.safetensors import header as safetensors  # noqa: PLC0415 - as above

    header = safetensors.read_header(source)
    nodes = [Node(tensor.name, NodeKind.TENSOR, tensor=tensor) for tensor in header.tensors]
    if header.metadata:
        texts = [Node(key, NodeKind.VALUE, value=text, origin=text) for key, text in header.metadata.items()]
        nodes.insert(0, Node(METADATA, NodeKind.MAPPING, children=texts))
    root = Node("", NodeKind.MAPPING, children=nodes)
    return Contents(source.path, Format.SAFETENSORS, source.size_bytes, root, tuple(header.tensors))


_READERS: dict[Format, Callable[[Source], Contents]] = {
    Format.ZIP: _of_zip,
    Format.LEGACY: _of_legacy,
    Format.SAFETENSORS: _of_safetensors,
    Format.PICKLE: _of_bare_pickle,
}
