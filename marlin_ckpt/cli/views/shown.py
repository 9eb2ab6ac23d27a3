"""What `show --json` prints: the keys are documented in the README and stable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from marlin_ckpt.errors import UnsafeCheckpointError
from marlin_ckpt.formats.content.optimizers import find_optimizers, join
from marlin_ckpt.formats.content.outline import Kind, Node, Outline, Tensor
from marlin_ckpt.formats.pickle import permissions

if TYPE_CHECKING:
    from marlin_ckpt.formats.values.statistics import Statistics

_MOST_PARTS = 64  # of a list; a longer one may stand in very many places
_LONGEST_TEXT = 1_000  # characters of a value
_MOST_TEXT = 16 << 20  # characters of all names and values


def document(
    found: Outline, tensors: Sequence[Tensor], figures: Sequence[Statistics] | None
) -> dict[str, Any]:
    """The document of `show --json`.

    Args:
        found: the file.
        tensors: those to be told of.
        figures: of those that were read; None where none was asked for.

    Raises:
        UnsafeCheckpointError: the file's names and values would fill the memory.
    """
    manifest = found.manifest
    code = permissions.loading_code(found.path, found.imports, found.numpy_types)
    told = {
        "path": found.path,
        "format": found.format,
        "size_bytes": found.size_bytes,
        "kind": None if manifest is None else str(manifest.kind),
        "index": None if manifest is None else manifest.index,
        "run_id": None if manifest is None else manifest.run_id,
        "save_number": None if manifest is None else manifest.save_number,
        "created": None if manifest is None else manifest.created,
        "metrics": None if manifest is None else manifest.metrics,
        "versions": None if manifest is None else manifest.versions,
        "lost": [] if manifest is None else manifest.lost,
        "optimizers": [
            {"name": one.name, "kind": one.kind or None, "groups": [_settings(group) for group in one.groups]}
            for one in find_optimizers(found.root)
        ],
        "imports": [
            {"name": name, "permission": str(permissions.permission(name))} for name in found.imports
        ],
        "allow_list": "\n".join(code) or None,
        "tensors": [_tensor(one) for one in tensors],
        "values": _values(found),
    }
    return told if figures is None else {**told, "stats": [_figures(one) for one in figures]}


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: _plain(setting) for key, setting in group.items()}


def _tensor(one: Tensor) -> dict[str, Any]:
    return {
        "name": one.name,
        "dtype": one.dtype,
        "shape": list(one.shape),
        "elements": one.numel,
        "size_bytes": one.size_bytes,
        "storage": one.storage,
    }


def _figures(one: Statistics) -> dict[str, Any]:
    return {
        "name": one.tensor.name,
        "min": one.minimum,
        "max": one.maximum,
        "mean": one.mean,
        "std": one.std,
        "nan": one.nans,
        "inf": one.infinities,
        "histogram": list(one.histogram),
    }


def _values(found: Outline) -> dict[str, Any]:
    """The plain values of a file by their names."""
    values: dict[str, Any] = {}
    room = _MOST_TEXT
    for name, node in _leaves(found.root):
        values[name] = _plain(node.value)
        room -= len(name) + len(str(values[name]))
        if room < 0:
            raise UnsafeCheckpointError("refused: its names and values would fill the memory", found.path)
    return values


def _leaves(root: Node) -> Iterator[tuple[str, Node]]:
    pending = [("", root)]
    while pending:
        name, node = pending.pop()
        if node.kind is Kind.VALUE:
            yield name, node
        pending.extend((join(name, child.key), child) for child in reversed(node.children))


def _plain(one: Any) -> Any:
    """A value in what JSON has; long ones are told in words."""
    if isinstance(one, (list, tuple, set, frozenset, dict)):
        if len(one) > _MOST_PARTS or isinstance(one, dict):
            return f"{len(one)} values"
        return [_plain(part) for part in one]
    if isinstance(one, (str, bytes)):
        cut = one[:_LONGEST_TEXT]
        return (cut if isinstance(cut, str) else repr(cut)) + "..." * (len(one) > _LONGEST_TEXT)
    return str(one) if isinstance(one, complex) else one
