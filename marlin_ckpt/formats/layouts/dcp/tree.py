"""What a folder of torch's Distributed Checkpoint holds, as one tree."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from marlin_ckpt.errors import BadFileError, CheckpointNotFoundError
from marlin_ckpt.formats.content.contents import read_contents
from marlin_ckpt.formats.content.node import Node, NodeKind
from marlin_ckpt.formats.layouts.dcp.pieces import MOST_IN_PATH, Path
from marlin_ckpt.formats.layouts.dcp.saved import Item, Saved
from marlin_ckpt.formats.pickle.labels import join
from marlin_ckpt.formats.shards.nesting import KINDS
from marlin_ckpt.formats.values.tensor import Piece, TensorInfo, contiguous_stride
from marlin_ckpt.formats.values.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from marlin_ckpt.formats.layouts.members import Folder

_MOST_READ = 100  # values whose files are opened to be shown; the rates of each weight are many more
_LARGEST_READ = 64 << 10  # bytes of a value that is read
_COMPARED_BYTES = 4096  # of the end of a value that is not read: there are its checksums
_STEP = 8  # of the budget, for each key that is looked at with those above it
_OPTIMIZER = "optimizer."  # the state that Megatron-Core saves under flat names beside the model's


def tree_of(folder: Folder, saved: Saved, without: str = "\0") -> tuple[Node, list[str]]:
    """Makes the tree of what was saved; reads small values, and no tensor.

    Args:
        folder: the checkpoint.
        saved: what its metadata says.
        without: how the names begin of what is no part of what the user saved.

    Returns:
        the root, and the names that unpickling the values would import.

    Raises:
        ExcessError: it has more nodes than any metadata of its length.
        StorageError: a shard cannot be read.
    """
    tree, values, ties = _Tree(saved), _Values(folder, saved), saved.ties()
    for name in dict.fromkeys((*saved.tensors, *saved.values)):
        if name.startswith(without):
            continue
        path = tree.place(name)
        if name in saved.tensors:
            tree.put(Node("", NodeKind.TENSOR, tensor=_tensor(saved, name, path, ties.get(name, name))))
        else:
            tree.put(values.node(saved.values[name], path))
    for keys in values.empty_containers():
        tree.put_empty(keys)
    tree.finish()
    return tree.root, sorted(values.imports)


def _tensor(saved: Saved, name: str, path: str, storage: str) -> TensorInfo:
    found = saved.tensors[name]
    pieces = tuple(
        Piece(one.place.file, one.place.start, one.place.size_bytes, one.chunk.offsets, one.chunk.shape)
        for one in saved.pieces_of(name)
        if one.chunk is not None
    )
    saved.budget.count_nodes(len(pieces))
    return TensorInfo(
        path, found.dtype, found.shape, contiguous_stride(found.shape), 0, storage, 0, 0, pieces=pieces
    )


class _Tree:
    """Makes a tree of flat names by the keys that lead to them."""

    def __init__(self, saved: Saved) -> None:
        self._children: dict[Path, list[Node]] = {(): []}
        self.root = Node("", NodeKind.MAPPING, children=self._children[()])
        self._saved = saved
        self._containers: dict[Path, Node] = {(): self.root}
        self._taken: set[Path] = set()
        self._next: Path = ()

    def place(self, name: str) -> str:
        """Makes what lies above a name; returns the path, which the next node that is put gets."""
        keys = self._saved.paths.get(name) or _keys_of(name)
        is_taken = any(keys[:end] in self._taken for end in range(1, len(keys) + 1))
        if is_taken or keys in self._containers:
            keys = (name,)
        self._saved.budget.charge(_STEP * len(keys) ** 2)
        path = ""
        for end in range(1, len(keys) + 1):
            path = join(path, _text(keys[end - 1]))
            if end < len(keys):
                self._container(keys[:end])
        self._saved.budget.count_nodes(1)
        self._saved.budget.charge(4 * len(path))
        self._next = keys
        return path

    def put(self, node: Node) -> None:
        """Puts a node where `place` said."""
        node.key = _text(self._next[-1])
        self._taken.add(self._next)
        self._children[self._next[:-1]].append(node)

    def put_empty(self, keys: Path) -> None:
        """Puts a container that nothing is in, unless something is there."""
        is_taken = any(keys[:end] in self._taken for end in range(1, len(keys) + 1))
        if not is_taken and len(keys) <= MOST_IN_PATH:
            self._saved.budget.charge(_STEP * len(keys) ** 2)
            for end in range(1, len(keys) + 1):
                self._container(keys[:end])

    def _container(self, keys: Path) -> None:
        if keys not in self._containers:
            self._saved.budget.count_nodes(1)
            children: list[Node] = []
            made = Node(_text(keys[-1]), NodeKind.MAPPING, children=children)
            self._containers[keys], self._children[keys] = made, children
            self._children[keys[:-1]].append(made)

    def finish(self) -> None:
        """Says which containers are lists, and what they stand for."""
        for keys, node in sorted(self._containers.items(), key=lambda one: -len(one[0])):
            if keys and node.children and all(one.key.startswith("[") for one in node.children):
                node.kind = NodeKind.LIST
                node.origin = [one.origin for one in node.children]
            else:
                node.origin = {one.key: one.origin for one in node.children}


def _keys_of(name: str) -> Path:
    if name.startswith(_OPTIMIZER):
        return "optimizer", name.removeprefix(_OPTIMIZER)
    return (name,)


def _text(key: str | int) -> str:
    return key if type(key) is str else f"[{key}]"


class _Values:
    """What is no tensor: read where it is small and there are few, and named by its size elsewhere."""

    def __init__(self, folder: Folder, saved: Saved) -> None:
        self._folder = folder
        kinds = [
            one for name, one in saved.values.items() if name.startswith(KINDS) and not one.place.packing
        ]
        self._kinds = kinds[:_MOST_READ]
        self.imports: set[str] = set()
        tops = {name: (saved.paths.get(name) or (name,))[0] for name in saved.values}
        many = Counter(tops.values())
        self._read = set(sorted(saved.values, key=lambda name: many[tops[name]])[:_MOST_READ])

    def node(self, item: Item, path: str) -> Node:
        """A value as it is shown."""
        place = item.place
        try:
            with self._folder.open(place.file) as source:
                window = Window(source, max(0, place.start), max(0, place.size_bytes))
                if item.name in self._read and place.size_bytes <= _LARGEST_READ and not place.packing:
                    return self._read_value(window, item, path)
                end = window.read(max(0, place.size_bytes - _COMPARED_BYTES), _COMPARED_BYTES)
        except (BadFileError, CheckpointNotFoundError):
            end = b""
        return Node("", NodeKind.OBJECT, f"saved value, {place.size_bytes:,} bytes", origin=end)

    def empty_containers(self) -> Iterator[Path]:
        """The keys of dicts that no name leads through, if they are empty: only their kinds tell of them."""
        for item in self._kinds:
            with (
                contextlib.suppress(BadFileError, CheckpointNotFoundError),
                self._folder.open(item.place.file) as source,
            ):
                window = Window(source, max(0, item.place.start), max(0, item.place.size_bytes))
                kinds = read_contents(window).root.origin
                if type(kinds) is dict:
                    yield from (path for path, kind in kinds.items() if _is_of_dict(path, kind))

    def _read_value(self, window: Window, item: Item, path: str) -> Node:
        found = read_contents(window)
        self.imports.update(found.imports)
        root = found.root.copied()
        pending = [root]
        while pending:
            node = pending.pop()
            if node.tensor is not None:
                _place(node, node.tensor, item, path)
            node.children = [one.copied() for one in node.children]
            pending.extend(node.children)
        return root


def _is_of_dict(path: Any, kind: Any) -> bool:
    """Whether an entry of the kinds of containers, of whoever wrote it, is one of a dict."""
    is_path = type(path) is tuple and bool(path) and all(type(key) in (str, int) for key in path)
    return is_path and type(kind) is dict and type(kind.get("like", ())) is not tuple


def _place(node: Node, tensor: TensorInfo, item: Item, path: str) -> None:
    """Says of a tensor in a value where it is: bare in the shard, if it is all of its storage."""
    start = item.place.start + tensor.start
    is_bare = tensor.record is None and tensor.pickled is None and tensor.byteorder == "little"
    if not is_bare or not tensor.is_contiguous or not tensor.size_bytes == tensor.storage_bytes > 0:
        node.kind, node.label, node.tensor = NodeKind.OBJECT, f"{tensor.dtype} {list(tensor.shape)}", None
        return
    piece = Piece(
        item.place.file, start, tensor.storage_bytes, (0,) * len(tensor.shape), tensor.shape, is_bare=True
    )
    name = join(path, tensor.name) if tensor.name else path
    own = f"{item.place.file}:{start}"
    node.tensor = TensorInfo(
        name, tensor.dtype, tensor.shape, tensor.stride, 0, own, 0, 0, in_state=False, pieces=(piece,)
    )
