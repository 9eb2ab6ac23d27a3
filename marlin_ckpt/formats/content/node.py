"""The tree of what a file holds, as `show`, `export` and the others read it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from marlin_ckpt.formats.values.tensor import TensorInfo


class NodeKind(StrEnum):
    """What a node of the tree is.

    MODULE is a module of torch that was pickled whole: its children have the names that its `state_dict()`
    gives them; its other attributes follow. COMPOSITE is a tensor that is made of others, such as a
    distributed or a quantized one; its children are these.
    """

    MAPPING = "mapping"
    LIST = "list"
    TUPLE = "tuple"
    VALUE = "value"
    OBJECT = "object"
    MODULE = "module"
    TENSOR = "tensor"
    COMPOSITE = "composite"
    ELSEWHERE = "elsewhere"


class Node:
    """One node of the tree of a file.

    Attributes:
        key: the last part of its name, `weight` or `[0]`; `""` at the root.
        kind: what the node is. ELSEWHERE is a container that is shown at its first place in the tree, or that
            is nested too deeply to be shown.
        label: a short text on an object, a module or a composite, on what a tensor is beside its elements, or
            on what is not shown.
        value: the value of a VALUE: a plain value, or a list, tuple, set or large mapping of plain values.
        tensor: the tensor of a TENSOR.
        children: the nodes in it, in the file's order. A TENSOR has children if it holds more than its
            elements.
        origin: the object as the reader of pickles makes it, with placeholders for all that would be
            imported.
        in_state: as of `TensorInfo`, whether or not it is a tensor.
        is_too_deep: whether it is ELSEWHERE because it is nested too deeply.
    """

    # No dataclass, which takes longer to make than all else that `show` imports of this folder.
    __slots__ = (
        "children", "in_state", "is_too_deep", "key", "kind", "label", "origin", "tensor", "value",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913, PLR0917 - as many facts
        self,
        key: str,
        kind: NodeKind,
        label: str = "",
        value: Any = None,
        tensor: TensorInfo | None = None,
        children: Sequence[Node] = (),
        origin: Any = None,
        is_too_deep: bool = False,
        in_state: bool = True,
    ) -> None:
        """Takes the facts."""
        self.key, self.kind, self.label, self.value = key, kind, label, value
        self.tensor, self.children, self.origin = tensor, children, origin
        self.is_too_deep, self.in_state = is_too_deep, in_state

    def __repr__(self) -> str:
        shown = (
            (name, getattr(self, name)) for name in ("key", "kind", "label", "value", "tensor", "children")
        )
        return f"Node({', '.join(f'{name}={value!r}' for name, value in shown)})"

    def copied(self) -> Node:
        """A node that is equal to it in all, with the same children."""
        # Several times as fast as copy.copy and dataclasses.replace, and a folder has many nodes.
        return Node(
            self.key, self.kind, self.label, self.value, self.tensor, self.children, self.origin,
            self.is_too_deep, self.in_state,
        )  # fmt: skip
