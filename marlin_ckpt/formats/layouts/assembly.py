"""Puts what the files of a folder hold together in one tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, cast

from marlin_ckpt.errors import CheckpointNotFoundError
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.budget import Budget
from marlin_ckpt.formats.content.contents import METADATA, Contents, read_contents
from marlin_ckpt.formats.content.node import Node, NodeKind
from marlin_ckpt.formats.content.tree import Builder
from marlin_ckpt.formats.layouts.parts import clauses, misplaced
from marlin_ckpt.formats.pickle.labels import join
from marlin_ckpt.formats.values.tensor import TensorInfo

if TYPE_CHECKING:
    from marlin_ckpt.formats.layouts.members import Folder
    from marlin_ckpt.formats.layouts.parts import Makeup, Part, ToolLayout
    from marlin_ckpt.formats.pickle.views import View


def assemble(folder: Folder, layout: str, makeup: Makeup) -> Contents:
    """Reads each part of a folder, and puts them together.

    Args:
        folder: the checkpoint.
        layout: its name.
        makeup: which of its files hold what.

    Returns:
        what it holds. The tensors have their names in the tree, and the names of their files.

    Raises:
        BadFileError: a part is damaged or is something else.
        StorageError: it cannot be read.
    """
    root = Node("", NodeKind.MAPPING, origin={})
    parts: list[tuple[str, Contents]] = []
    gaps = [*makeup.missing, *makeup.wrong]
    for one in makeup.parts:
        try:
            found = read_part(folder, one)
        except CheckpointNotFoundError:
            gaps.append(f"{one.name} is missing")
            continue
        gaps += found.gaps
        parts.append((one.name, found))
        moved = _moved(found.root, one)
        if one.state:
            moved.key = one.state
        _put(root, [moved] if one.state else moved.children)
    gaps += misplaced(makeup.places, {name: found.tensors for name, found in parts})
    _put(root, _plain_nodes(folder, makeup, gaps))
    imports = sorted({name for _, one in parts for name in one.imports})
    numpy_types = sorted({name for _, one in parts for name in one.numpy_types})
    size_bytes = sum(item.size_bytes for item in folder.items.values())
    return Contents(
        folder.path, layout, size_bytes, root, tuple(tensors_in(root)), tuple(imports), tuple(numpy_types),
        parts=tuple(parts), gaps=clauses(gaps),
        unused_bytes=sum(one.unused_bytes for _, one in parts), tools_metrics=makeup.metrics,
    )  # fmt: skip


def joined(root: Node, contents: Contents, imports: Iterable[str], gaps: Iterable[str]) -> Contents:
    """What a folder holds beside its parts, and these, in one tree.

    Args:
        root: of what it holds beside them.
        contents: of the parts.
        imports: what unpickling the rest would import.
        gaps: what the rest lacks.
    """
    _put(root, contents.root.children)
    return contents._replace(
        root=root,
        tensors=tuple(tensors_in(root)),
        imports=tuple(sorted({*contents.imports, *imports})),
        gaps=clauses([*contents.gaps, *gaps]),
    )


def read_part(folder: Folder, part: Part) -> Contents:
    """What one part holds, by the names that it has there; raises as `assemble` does."""
    if part.layout:
        layout = cast("ToolLayout", layouts.named(part.layout))
        return layout.contents_in(folder.below(part.name))
    with folder.open(part.name) as source:
        return read_contents(source)


def tensors_in(root: Node) -> Iterator[TensorInfo]:
    """The tensors of a tree, in its order."""
    pending = [root]
    while pending:
        node = pending.pop()
        if node.tensor is not None:
            yield node.tensor
        pending.extend(reversed(node.children))


def _put(root: Node, nodes: Iterable[Node]) -> None:
    """Adds nodes to the tree; of a state that several files hold parts of, to what is there of it."""
    there = {one.key: one for one in root.children if one.kind is NodeKind.MAPPING}
    texts = {one.key for one in root.children} if root.key == METADATA else ()
    new = []
    for one in nodes:
        if one.key in texts:
            continue  # each shard has texts of its own, and nearly always the same ones
        if one.kind is NodeKind.MAPPING and (own := there.get(one.key)):
            _put(own, one.children)
        else:
            new.append(one)
    root.children = [*root.children, *new]
    if isinstance(root.origin, dict):
        root.origin = {**root.origin, **{one.key: one.origin for one in new}}


def _moved(root: Node, part: Part) -> Node:
    """The tree of a part with its tensors as those of the folder."""

    def as_there(tensor: TensorInfo) -> TensorInfo:
        name = join(part.state, tensor.name) if part.state else tensor.name
        return tensor_of(tensor, part.name, name, part.partial)

    return _mapped(root, as_there)


def tensor_of(tensor: TensorInfo, file: str, name: str, partial: str = "") -> TensorInfo:
    """A tensor of a file, or of a folder in a folder, as one of the folder; see `Part` on `partial`."""
    pieces = tuple(one._replace(file=f"{file}/{one.file}") for one in tensor.pieces)
    own = f"{file}/{tensor.file}" if tensor.file else "" if pieces else file
    return tensor.moved(name, own, f"{file}:{tensor.storage}", pieces, partial or tensor.partial)


def _mapped(root: Node, change: Callable[[TensorInfo], TensorInfo]) -> Node:
    copy = root.copied()
    pending = [copy]
    while pending:
        node = pending.pop()
        if node.tensor is not None:
            node.tensor = change(node.tensor)
        if node.children:
            node.children = [one.copied() for one in node.children]
            pending.extend(node.children)
    return copy


def _plain_nodes(folder: Folder, makeup: Makeup, gaps: list[str]) -> list[Node]:
    def no_tensor(name: str, view: View) -> TensorInfo:
        raise TypeError(f"JSON holds no tensors: {name} {view}")

    size = sum(folder.items[name].size_bytes for name in makeup.values if name in folder.items)
    builder = Builder(no_tensor, Budget(lambda: size, folder.path))
    nodes = []
    for name in makeup.values:
        node = builder.build(folder.json_object(name, gaps))
        node.key = name.removesuffix(".json")
        nodes.append(node)
    return nodes
