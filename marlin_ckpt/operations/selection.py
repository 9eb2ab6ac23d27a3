"""Selects tensors and values of a file: by the state that holds them, or by a pattern of their names."""

import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from enum import StrEnum
from typing import TypeVar

from marlin_ckpt.checkpoint import PAYLOAD_KEYS
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.formats.content.contents import METADATA, Contents, Node, NodeKind, TensorInfo
from marlin_ckpt.formats.format import Format
from marlin_ckpt.formats.pickle.labels import join

# The names under which checkpoints hold the module's state: ours and PyMarlin's, Lightning's, and those of
# tutorials.
MODULE_STATES = (PAYLOAD_KEYS[0], "state_dict", "model_state_dict", "model")
# Those of what stands beside a module's weights that are in no entry of their own, as torchtitan's are.
_OTHER_STATES = frozenset({
    "optimizer", "optimizers", "optimizer_state", "optimizer_states", "optimizer_state_dict", "optim",
    "lr_scheduler", "lr_schedulers", "scheduler", "schedulers", "scheduler_state_dict", "scaler",
    "grad_scaler", "train_state", "trainer_state", "dataloader", "dataloaders", "sampler", "rng",
    "rng_state", "rng_states", "random_states",
})  # fmt: skip
_MOST_NAMES = 8
CONTAINERS = (NodeKind.MAPPING, NodeKind.LIST, NodeKind.TUPLE)

# What torch pickles tensors as: calls of these functions.
_BUILDERS = ("torch._utils._rebuild_", "torch._tensor._rebuild_")

_DIGITS = r"(\d+)"
_LONGEST_NAME = 200  # characters that are sorted by; no name that anybody gave is longer

Found = TypeVar("Found")


class Order(StrEnum):
    """The order in which tensors, or parts of a tree, are printed."""

    ORDER = "order"  # the file's own
    NAME = "name"
    SIZE = "size"


def matching(contents: Contents, pattern: str | None, order: Order) -> list[TensorInfo]:
    """The tensors of a file whose names match a pattern, sorted.

    Args:
        contents: of the file.
        pattern: as `fnmatch` reads it, `*` is any text; None: all tensors.
        order: of the result.

    Raises:
        MarlinError: the file has tensors, but none of them matches.
    """
    found = [one for one in contents.tensors if pattern is None or fnmatch.fnmatchcase(one.name, pattern)]
    if contents.tensors and not found:
        hint = f"its first tensor is {contents.tensors[0].name}"
        raise MarlinError(f"no tensor has a name like {pattern}", contents.path, hint)
    return arranged(found, order, lambda one: one.name, lambda one: one.size_bytes)


def arranged(
    items: Iterable[Found], order: Order, name: Callable[[Found], str], size_bytes: Callable[[Found], int]
) -> list[Found]:
    """Sorts by name, `h.2` before `h.10`, or by size, the largest first, or not at all."""
    if order is Order.SIZE:
        return sorted(items, key=size_bytes, reverse=True)
    return sorted(items, key=lambda one: _natural(name(one))) if order is Order.NAME else list(items)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    parts = re.split(_DIGITS, name[:_LONGEST_NAME])
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def module_state(contents: Contents) -> str:
    """The name of the entry that holds the module's state; "" where the file is a bare state dict."""
    if contents.root.kind is NodeKind.MODULE:
        return ""  # whatever the names of the modules in it are
    states = {one.key for one in contents.root.children if one.kind is not NodeKind.TENSOR}
    tops = states & {_top(one.name) for one in weights(contents.tensors, lambda one: one)}
    modules = (node.key for node in contents.root.children if node.kind is NodeKind.MODULE)
    return next((name for name in (*MODULE_STATES, *modules) if name in tops), "")


def module_alone(contents: Contents) -> Contents:
    """A file without the states beside its weights, where these are in no entry of their own.

    Returns:
        the same contents where there are no such states, or nothing else.
    """
    if contents.root.kind is NodeKind.MODULE or module_state(contents):
        return contents
    others = {
        one.key for one in contents.root.children if one.key in _OTHER_STATES and one.kind in CONTAINERS
    }
    tensors = tuple(one for one in contents.tensors if _top(one.name) not in others)
    if not others or not any(one.in_state for one in tensors):
        return contents
    kept = [one for one in contents.root.children if one.key not in others]
    origin = contents.root.origin
    if isinstance(origin, dict):
        origin = {key: one for key, one in origin.items() if key not in others}
    root = contents.root.copied()
    root.children, root.origin = kept, origin
    return contents._replace(root=root, tensors=tensors)


def weights(found: Iterable[Found], tensor: Callable[[Found], TensorInfo]) -> list[Found]:
    """Those of some findings that are weights: tensors of a state; where there are none, arrays of NumPy's.

    Args:
        found: tensors, or what has one each.
        tensor: gets the tensor of a finding.
    """
    listed = list(found)
    in_state = [one for one in listed if tensor(one).in_state]
    return in_state or [one for one in listed if tensor(one).is_array]


def tensors_of(contents: Contents, state: str) -> list[tuple[str, TensorInfo]]:
    """The tensors of a state with their names within it, in the file's order; two may have one name.

    Args:
        contents: of the file.
        state: the name of an entry at any depth (`trainer_state.optimizer`); "" for the whole file.

    Raises:
        MarlinError: no state of that name has a tensor; the hint lists those that have.
    """
    named = {one.name: one for one in contents.tensors}
    aliased = [replace(named[kept], name=name) for name, kept in aliases(contents).items()]
    listed = [*contents.tensors, *aliased]
    found = [(inner, one) for one in listed if (inner := within(one.name, state)) is not None]
    if state and not found:
        tops = list(dict.fromkeys(_top(one.name) for one in contents.tensors))
        names = ", ".join(tops[:_MOST_NAMES]) + (", ..." if len(tops) > _MOST_NAMES else "")
        hint = f"there are tensors in {names}" if tops else ""
        raise MarlinError(f"no tensor is in a state of the name {state}", contents.path, hint)
    return found


def aliases(contents: Contents) -> dict[str, str]:
    """The names that `safetensors.torch.save_model` left out, each with the one that it kept.

    It puts them into the metadata of the file, since no two tensors can share their bytes there.
    """
    names = {one.name for one in contents.tensors}
    found = {}
    for state, texts in _texts(contents).items():
        for inner, other in texts.items():
            name, kept = (join(state, one) if state else one for one in (inner, other))
            if name not in names and kept in names:
                found[name] = kept
    return found


def metadata_of(contents: Contents) -> dict[str, str]:
    """The texts that a safetensors file, or a folder of such, carries beside its tensors, by their names."""
    return _texts(contents).get("", {})


def _texts(contents: Contents) -> dict[str, dict[str, str]]:
    """The texts of safetensors files by the states that these hold; "" is the whole of a file or a folder."""
    if Format.SAFETENSORS not in contents.formats:
        return {}
    tops = [("", contents.root), *((one.key, one) for one in contents.root.children if contents.parts)]
    return {
        state: {node.key: str(node.value) for node in one.children}
        for state, top in tops
        for one in top.children
        if one.key == METADATA and one.kind is NodeKind.MAPPING
    }


def is_text(name: str) -> bool:
    """Whether a name within a state is that of a text that a safetensors file carries, or of all of them."""
    return f".{METADATA}." in f".{name}."


def within(name: str, state: str) -> str | None:
    """The name within a state of what has this name in the file; None where it is not in the state."""
    if not state:
        return name
    if name == state:
        return name.rpartition(".")[2]
    if name.startswith((f"{state}.", f"{state}[")):
        return name[len(state) :].removeprefix(".")
    return None


def _top(name: str) -> str:
    return name.partition(".")[0].partition("[")[0]


def numbered(found: Iterable[tuple[str, Found]]) -> dict[str, Found]:
    """A dict of the findings; of equal names, as in {"a": {"b": 1}, "a.b": 2}, later ones get a number."""
    seen: Counter[str] = Counter()
    named = {}
    for name, one in found:
        seen[name] += 1
        named[name if seen[name] == 1 else f"{name} ({seen[name]})"] = one
    return named


def count_values(contents: Contents, state: str) -> int:
    """How many values a state has beside the tensors that belong to it."""
    has_texts = Format.SAFETENSORS in contents.formats
    found = (node for name, node in walk(contents, state) if not (has_texts and is_text(name)))
    return sum(is_value(one) or (one.tensor is not None and not one.tensor.in_state) for one in found)


def is_value(node: Node) -> bool:
    """Whether a node stands for something of its own that is no tensor, and not for its parts alone."""
    is_empty = node.kind in (*CONTAINERS, NodeKind.MODULE) and not node.children
    return is_empty or node.kind in (NodeKind.VALUE, NodeKind.OBJECT)


def unplain_of(contents: Contents, state: str) -> dict[str, str]:
    """The tensors of a state that are not plain, such as sparse or distributed ones, with what they are."""
    return numbered(
        (name, node.label)
        for name, node in walk(contents, state)
        if node.in_state
        and (
            node.kind is NodeKind.COMPOSITE
            or (node.kind is NodeKind.OBJECT and node.label.startswith(_BUILDERS))
        )
    )


def walk(contents: Contents, state: str) -> Iterator[tuple[str, Node]]:
    """All nodes of a state, each with its name within it."""
    return ((name, node) for name, node, _ in walk_deep(contents, state))


def walk_deep(contents: Contents, state: str) -> Iterator[tuple[str, Node, int]]:
    """All nodes of a state, each with its name within it, and how deep it lies in the file: 1 is the root."""
    pending = [("", contents.root, 1)]
    while pending:
        above, node, depth = pending.pop()
        name = f"{above}.{node.key}" if above and node.key[:1] not in ("", "[") else above + node.key
        inner = within(name, state)
        if inner is not None:
            is_state = bool(state) and name == state and bool(node.children)
            yield "" if is_state else inner, node, depth
        pending.extend((name, child, depth + 1) for child in reversed(node.children))
