"""What a file holds, as a tree: made of stubs, with every claim bounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from marlin_ckpt.formats.budget import Budget
from marlin_ckpt.formats.content import kinds
from marlin_ckpt.formats.content.node import Node, NodeKind
from marlin_ckpt.formats.pickle import labels
from marlin_ckpt.formats.pickle.composites import Composite, composite_of, quantizer_text
from marlin_ckpt.formats.pickle.labels import PLAIN, join, key_text, name_text
from marlin_ckpt.formats.pickle.modules import MAPPINGS, Module, first_items, module_of
from marlin_ckpt.formats.pickle.ndarrays import Array, array_of, number_of
from marlin_ckpt.formats.pickle.plain import latin_1_of
from marlin_ckpt.formats.pickle.stubs import Global, Span, Stub, length
from marlin_ckpt.formats.pickle.views import View, view_of
from marlin_ckpt.formats.values.tensor import TensorInfo, contiguous_stride

_NODES_A_TENSOR = 3  # of the budget; its sizes may count for more
_VISIT = 100  # of the budget, beside its parts
_NOWHERE = -1  # in place of where in the file a storage starts
_DIMENSIONS_A_NODE = 16
_MOST_REPEATS = 20_000  # of the nodes in containers that stand in several places
_MOST_DEPTH = 200
_LARGE = 1_000  # entries of a mapping that is one value if all of them are plain: a vocabulary, say
_TOO_DEEP = f"nested deeper than {_MOST_DEPTH}"
_ROWS = (list, tuple, set, frozenset)
FindModule = Callable[[Any, Callable[[int], None]], Module | None]


class _Inside(NamedTuple):
    """A container.

    Attributes:
        value: the container itself.
        size: how many steps it takes to go over it.
        parts: what lies in it, with their keys.
        state_parts: how many of them, from the first on, belong to the state that it belongs to.
    """

    value: Any
    size: int
    parts: Iterator[tuple[str, Any]]
    state_parts: float = math.inf


class Builder:
    """Makes the tree; each container once, and again where it is shared only within bounds.

    Args:
        make_tensor: places a tensor in the file, given its name.
        budget: what reading the file's metadata may still take.
        find_module: makes out modules that were pickled whole.

    Attributes:
        tensors: those of the tree, in its order.
        numpy_types: the codes of the numpy dtypes in it, `f8`.
    """

    def __init__(
        self,
        make_tensor: Callable[[str, View], TensorInfo],
        budget: Budget,
        find_module: FindModule = module_of,
    ) -> None:
        self.tensors: list[TensorInfo] = []
        self.numpy_types: set[str] = set()
        self._make_tensor = make_tensor
        self._budget = budget
        self._find_module = find_module
        self._repeats_left = _MOST_REPEATS
        self._is_repeated = False  # what is being made stands elsewhere too
        self._is_beside = False  # what is being made belongs to no state
        self._on_path: set[int] = set()
        self._seen: set[int] = set()
        self._plain: dict[int, bool] = {}
        self._made: list[Any] = []  # keeps what was made meanwhile, so that no two things have one id
        self._arrays: dict[int, str] = {}  # keys in place of those of storages

    def build(self, value: Any) -> Node:
        """Makes the tree of a value.

        Raises:
            ExcessError: it has more nodes than any state, or longer names.
        """
        return self._node("", "", value)

    def _node(self, key: str, above: str, value: Any) -> Node:
        # Names are joined again by those who show them, also of values.
        self._budget.count_nodes(1)
        self._budget.charge(kinds.room(above) + kinds.room(key))
        node, inside = self._begun(key, join(above, key), value)
        node.origin, node.in_state = value, not self._is_beside
        if inside is not None:
            self._enter(node, join(above, key), inside)
        return node

    def _begun(self, key: str, path: str, value: Any) -> tuple[Node, _Inside | None]:
        """A node without what lies in it, and what that is."""
        if type(value) in PLAIN:
            return Node(key, NodeKind.VALUE, value=labels.bounded(value)), None
        if type(value) is Global:
            return Node(key, NodeKind.OBJECT, label=name_text(value)), None
        if type(value) is Span:
            return Node(key, NodeKind.OBJECT, f"{len(value)} bytes"), None
        view = view_of(value)
        if view is not None:
            return self._of_tensor(key, path, view)
        array = array_of(value)
        if array is not None:
            return self._of_array(key, path, array, value)
        composite = composite_of(value)
        return self._of_other(key, value) if composite is None else self._of_composite(key, path, composite)

    def _of_composite(self, key: str, path: str, composite: Composite) -> tuple[Node, _Inside | None]:
        if composite.whole is not None:
            node, _ = self._of_tensor(key, path, composite.whole)
            node.label = f"{composite.kind}, {composite.about}"
            return node, None
        node = Node(key, NodeKind.COMPOSITE, composite.label)
        self._budget.charge(kinds.room(node.label))
        self._made.append(composite.parts)
        return node, _Inside(composite.parts, len(composite.parts), self._parts_of(composite.parts), 0)

    def _of_other(self, key: str, value: Any) -> tuple[Node, _Inside | None]:
        if type(value) is Stub:
            self._note_dtype(value)
            value = kinds.plain_object(value)
        if type(value) in PLAIN or self._is_one_value(value):
            return Node(key, NodeKind.VALUE, value=value), None
        if id(value) in self._on_path:
            return Node(key, NodeKind.ELSEWHERE, label="what it lies in"), None
        module = self._find_module(value, self._budget.charge)
        kind = kinds.what(value) if module is None else (NodeKind.MODULE, name_text(value))
        node = Node(key, *kind)
        self._budget.charge(kinds.room(node.label))
        if module is None:
            return node, _Inside(value, length(value), self._parts(value))
        listed = [*module.state, *module.others]
        parts = ((key_text(key), part) for key, part in listed)
        return node, _Inside(value, len(listed), parts, len(module.state))

    def _of_tensor(self, key: str, path: str, view: View) -> tuple[Node, _Inside | None]:
        self._budget.count_nodes(_NODES_A_TENSOR - 1 + len(view.shape) // _DIMENSIONS_A_NODE)
        tensor = self._make_tensor(path, view)
        tensor = replace(tensor, in_state=False) if self._is_beside else tensor
        self.tensors.append(tensor)
        others = [one for one in view.others if one]
        self._made.append(others)
        inside = _Inside(others, len(others), self._parts_of(others), 0) if others else None
        return Node(key, NodeKind.TENSOR, quantizer_text(view), tensor=tensor), inside

    def _of_array(self, key: str, path: str, array: Array, value: Stub) -> tuple[Node, _Inside | None]:
        """An array as a tensor is shown, one number as a value, and an array of no numbers by its dtype."""
        elements, shape = array.elements, array.shape
        self._note_dtypes(array.described)
        if array.is_number and (number := number_of(array)) is not None:
            return Node(key, NodeKind.VALUE, f"numpy.{elements.name}", number), None
        self._budget.count_nodes(_NODES_A_TENSOR - 1 + len(shape) // _DIMENSIONS_A_NODE)
        if isinstance(array.data, list) or not elements.is_number:
            node = Node(key, NodeKind.OBJECT, f"numpy array of {elements.name}, {list(shape)}")
            self._budget.charge(kinds.room(node.label))
            if not isinstance(array.data, list) or self._is_plain(array.data):
                return node, None
            return node, _Inside(array.data, len(array.data), self._parts(array.data))
        stride = contiguous_stride(shape)
        if array.is_fortran:
            stride = contiguous_stride(shape[::-1])[::-1]
        own = self._arrays.setdefault(id(value), f"array {len(self._arrays)}")
        start, pickled = (array.data.start, None) if isinstance(array.data, Span) else (_NOWHERE, array.data)
        tensor = TensorInfo(
            path, elements.name, shape, stride, 0, own, start, len(array.data), elements.byteorder,
            pickled=pickled, in_state=False, is_array=True,
        )  # fmt: skip
        self.tensors.append(tensor)
        return Node(key, NodeKind.TENSOR, tensor=tensor), None

    def _note_dtypes(self, described: Stub) -> None:
        """Notes the code of an array's dtype, and of those of its fields."""
        pending: list[Any] = [described]
        seen: set[int] = set()
        while pending:
            one = pending.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            self._budget.charge(_VISIT + 8 * length(one))
            if type(one) is Stub:
                self._note_dtype(one)
                pending.append(one.state)
            elif isinstance(one, dict):
                pending.extend(one.values())
            elif isinstance(one, tuple):
                pending.extend(one)

    def _note_dtype(self, stub: Stub) -> None:
        match stub.name, stub.arguments:
            case ("numpy", "dtype"), (str() as code, *_) if kinds.is_code(code):
                self.numpy_types.add(code)

    def _enter(self, node: Node, path: str, inside: _Inside) -> None:
        """Makes the parts of a container, unless that goes beyond the bounds."""
        was_repeated, was_beside = self._is_repeated, self._is_beside
        own = id(inside.value)
        is_repeated = was_repeated or own in self._seen
        if is_repeated:
            self._repeats_left -= 1 + inside.size
        if len(self._on_path) >= _MOST_DEPTH:
            node.kind, node.label, node.is_too_deep = NodeKind.ELSEWHERE, _TOO_DEEP, True
        elif is_repeated and self._repeats_left < 0:
            node.kind, node.label = NodeKind.ELSEWHERE, "what stands elsewhere too"
        else:
            self._seen.add(own)
            self._on_path.add(own)
            self._is_repeated = is_repeated
            if type(inside.value) is not Stub:  # of which not every part is a place
                self._budget.expect_nodes(inside.size)
            children: list[Node] = []
            node.children = children
            for key, part in inside.parts:
                self._is_beside = was_beside or len(children) >= inside.state_parts
                children.append(self._node(key, path, part))
            self._is_repeated, self._is_beside = was_repeated, was_beside
            self._on_path.discard(own)

    def _is_one_value(self, value: Any) -> bool:
        return (isinstance(value, _ROWS) or (isinstance(value, dict) and len(value) > _LARGE)) and (
            self._is_plain(value)
        )

    def _is_plain(self, value: Any) -> bool:
        """Whether a list or a mapping is of plain values alone, and so one value, as a list of rates is."""
        if not value:
            return True
        if id(value) not in self._plain:
            parts = (*value, *value.values()) if isinstance(value, dict) else value
            self._plain[id(value)] = all(
                type(part) in PLAIN and (type(part) is not int or part.bit_length() <= labels.LONGEST_INTEGER)
                for part in parts
            )
        return self._plain[id(value)]

    def _parts(self, value: Any) -> Iterator[tuple[str, Any]]:
        """The parts of a container, each with its key."""
        if isinstance(value, dict):
            yield from ((key_text(key), part) for key, part in value.items())
        elif isinstance(value, _ROWS):
            yield from ((f"[{number}]", part) for number, part in enumerate(value))
        elif type(value) is Stub:
            state = value.state
            first = [*first_items(value)]
            yield from ((key_text(key), part) for key, part in first)
            arguments = () if first else value.arguments
            if value.name in MAPPINGS and isinstance(state, dict):
                # A state_dict carries its modules' versions, which load_state_dict alone wants.
                state = {key: part for key, part in state.items() if key != "_metadata"}
            yield from self._parts_of((*arguments, *value.items, state))
            for key, part in value.pairs:
                yield key_text(key), part

    def _parts_of(self, inner: Any) -> Iterator[tuple[str, Any]]:
        """What an object is made of, under the object's own name: the parts of what has parts."""
        for one in inner:
            if isinstance(one, dict) or (isinstance(one, _ROWS) and not self._is_plain(one)):
                yield from self._parts(one)
            elif one and type(one) not in (Global, Span, *PLAIN) and latin_1_of(one) is None:
                yield "", one
