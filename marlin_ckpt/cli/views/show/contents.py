"""What a file is and holds, as `show` prints it."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from marlin_ckpt.cli import output, table
from marlin_ckpt.cli.text import count, cut, metrics, size, value
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.cli.views.show import tree
from marlin_ckpt.errors import UnsafeCheckpointError
from marlin_ckpt.escaping import escape
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.content.contents import Contents, NodeKind
from marlin_ckpt.formats.content.optimizers import Optimizer, find_optimizers
from marlin_ckpt.formats.content.summary import Branch, summarise
from marlin_ckpt.formats.format import Format
from marlin_ckpt.formats.manifest import Manifest, Mesh
from marlin_ckpt.formats.pickle import permissions
from marlin_ckpt.formats.pickle.permissions import Permission
from marlin_ckpt.operations.packed.finding import composites
from marlin_ckpt.operations.selection import Order, walk
from marlin_ckpt.storage import space
from marlin_ckpt.storage.space import Taken

_LEAST_UNUSED = 4_096  # bytes that are worth a line
_MOST_COMPOSITES, _LONGEST_PART = 3, 80  # tensors that are made of others, and characters of what they are
_MOST_GROUPS = 16  # of an optimizer's hyper-parameters
_MOST_PARTS = 64  # of a list in a document; a longer one may stand in very many places
_LONGEST_TEXT = 1_000  # characters of a value in a document
_MOST_TEXT = 16 << 20  # characters of all names and values of a document


def show(found: Contents, depth: int | None, order: Order) -> None:
    """Prints what a file is and holds.

    Args:
        found: the file.
        depth: how many levels of the tree; None: as many as fit on a screen.
        order: of the siblings in the tree.
    """
    whole = summarise(found.root)
    for title, text in _facts(found, whole):
        output.data(f"{title:<10} {text}")
    rows, is_whole = tree.rows(whole, depth, order)
    if rows:
        output.data("")
        table.show(rows, tree.COLUMNS)
    if not is_whole:
        output.talk("hint: --depth N shows more levels, --tensors '*' lists every tensor")


def _facts(found: Contents, whole: Branch) -> Iterator[tuple[str, str]]:
    if found.format in _FORMATS:
        encoded = "a TorchScript archive" if found.is_torch_script else _FORMATS[found.format]
        yield "file", f"{escape(found.path)}  {size(found.size_bytes)}, {encoded}"
    else:
        yield from _folder(found)
    taken = _taken(found)
    if taken is not None and taken.shares:
        shared = size(taken.size_bytes - taken.own_bytes)
        yield "own", f"{size(taken.own_bytes)}, and {shared} shared on the disk"
    manifest = found.manifest
    if manifest is not None:
        yield "kind", f"{manifest.kind}, index {manifest.index}, {escape(manifest.created)}"
        yield "run", f"{escape(manifest.run_id)}, save {manifest.save_number}"
        if manifest.metrics:
            yield "metrics", metrics(manifest.metrics)
        if manifest.versions:
            versions = sorted(manifest.versions.items())
            yield "versions", ", ".join(f"{escape(name)} {escape(one)}" for name, one in versions)
        if manifest.lost:
            yield "lost", f"{count(len(manifest.lost), 'tensor')}: {escape(', '.join(manifest.lost[:3]))}"
    if found.root.kind in (NodeKind.OBJECT, NodeKind.MODULE):
        yield "object", cut(found.root.label)
    tensors = count(whole.tensors, "tensor")
    yield "tensors", f"{tensors}, {whole.numel:,} elements, {size(whole.size_bytes)}"
    yield from _composites(found)
    if found.unused_bytes > max(_LEAST_UNUSED, found.size_bytes // 100):
        yield "unused", f"{size(found.unused_bytes)} belong to no tensor: `export` writes a file without them"
    for one in find_optimizers(found.root):
        yield from _optimizer(one)
    yield from _imports(found)


def _taken(found: Contents) -> Taken | None:
    """What it takes on the disk; None also of another tool's folder, which may hold more than is of it."""
    is_all = found.format in _FORMATS or found.manifest is not None
    return space.taken_at(found.path) if is_all else None


def _composites(found: Contents) -> Iterator[tuple[str, str]]:
    if made := list(composites(found)):
        first = made[:_MOST_COMPOSITES]
        named = [f"{cut(name, _LONGEST_PART)} ({cut(what, _LONGEST_PART)})" for name, what in first]
        more = ", ..." if len(made) > _MOST_COMPOSITES else ""
        yield "in parts", f"{count(len(made), 'tensor')}: {', '.join(named)}{more}"


def _folder(found: Contents) -> Iterator[tuple[str, str]]:
    what = _shards(found) or layouts.named(found.format).content
    yield "folder", f"{escape(found.path)}  {size(found.size_bytes)}, {what}"
    if (index := _index(found)) is not None:
        yield "step", str(index)
    if found.tools_metrics:
        yield "metrics", metrics(found.tools_metrics)
    yield from (("MISSING", escape(gap)) for gap in found.gaps)


def _shards(found: Contents) -> str:
    """How a sharded checkpoint is made up; "" of any other."""
    sharded = found.manifest and found.manifest.sharded
    if not sharded:
        return ""
    mesh = sharded.mesh and _mesh(sharded.mesh)
    return f"sharded by {count(sharded.world_size, 'rank')}" + (f" (mesh: {mesh})" if mesh else "")


def _mesh(mesh: Mesh) -> str:
    """How the ranks were arranged, `replicate 2 x shard 4`; "" of a row of ranks without a name."""
    # Dimensions that had no names are saved under their numbers.
    names = ["" if name == str(number) else f"{escape(name)} " for number, name in enumerate(mesh.names)]
    if names == [""]:
        return ""
    return " x ".join(f"{name}{size}" for name, size in zip(names, mesh.shape, strict=True))


def _index(found: Contents) -> int | None:
    """The index that the name of a folder has."""
    if found.format in _FORMATS or found.manifest is not None:
        return None
    name = layouts.named(found.format).read_name(os.path.basename(os.path.abspath(found.path)))
    return None if name is None else name.index


_FORMATS = {
    "zip": "a torch.save file",
    "legacy": "a legacy torch.save file, which has no checksums",
    "pickle": "a bare pickle, which has no checksums",
    "safetensors": "a safetensors file, which has no checksums",
}


def _optimizer(one: Optimizer) -> Iterator[tuple[str, str]]:
    where = escape(one.name) or "the file"
    yield "optimizer", f"{where}: {one.kind or 'of a kind that is not known'}"
    for number, group in enumerate(one.groups[:_MOST_GROUPS]):
        params = "" if group["params"] is None else f"{count(group['params'], 'parameter')}, "
        settings = [f"{escape(key)} {value(one)}" for key, one in group.items() if _is_worth_a_word(key, one)]
        yield "", f"group {number}: {params}{', '.join(settings)}"
    if len(one.groups) > _MOST_GROUPS:
        yield "", f"... {len(one.groups) - _MOST_GROUPS} more"


def _is_worth_a_word(key: str, setting: Any) -> bool:
    """Whether a hyper-parameter is printed; most are switches that are off."""
    return key != "params" and setting is not None and setting is not False


def _imports(found: Contents) -> Iterator[tuple[str, str]]:
    allowed = [name for name in found.imports if name in permissions.ALLOWED]
    others = [name for name in found.imports if name not in permissions.ALLOWED]
    if allowed:
        yield "imports", ", ".join(map(cut, allowed))
    for name in others:
        is_dangerous = permissions.permission(name) is Permission.DANGEROUS
        yield "UNSAFE", cut(name) + (", which runs code: never allow it" if is_dangerous else "")
    if hint := _hint(found):
        yield "to load", hint
    code = _loading_code(found)
    for number, line in enumerate(code):
        yield "" if number else "to load", escape(line)
    if code:
        yield "", "but only if you trust whoever wrote the file"


def document(found: Contents) -> dict[str, Any]:
    """The document of `show --json`, but for the tensors.

    Raises:
        UnsafeCheckpointError: the file's names and values would fill the memory.
    """
    manifest = found.manifest
    code = _loading_code(found)
    is_file = found.format in _FORMATS
    of_tool = (
        {} if is_file or manifest else {"index": _index(found), "metrics": dict(found.tools_metrics or {})}
    )
    return {
        **facts(found, "path", "format", "size_bytes", "unused_bytes"),
        **facts(_taken(found), "own_bytes"),
        **facts(manifest, "kind", "index", "run_id", "save_number", "created", "metrics", "versions"),
        "composites": [{"name": name, "what": what} for name, what in composites(found)],
        **of_tool,
        "layout": None if is_file else found.format,
        "sharded": _sharded(manifest),
        "gaps": list(found.gaps),
        "lost": [] if manifest is None else manifest.lost,
        "optimizers": [
            {
                "name": one.name,
                "kind": one.kind or None,
                "groups": [{key: _plain(value) for key, value in group.items()} for group in one.groups],
            }
            for one in find_optimizers(found.root)
        ],
        "imports": [{"name": one, "permission": str(permissions.permission(one))} for one in found.imports],
        "allow_list": "\n".join(code) or None,
        "values": _values(found),
    }


def _sharded(manifest: Manifest | None) -> dict[str, Any] | None:
    if manifest is None or manifest.sharded is None:
        return None
    one = manifest.sharded
    mesh = {"names": list(one.mesh.names), "shape": list(one.mesh.shape)} if one.mesh else None
    return {"save_id": one.save_id, "world_size": one.world_size, "mesh": mesh}


def _hint(found: Contents) -> str:
    return "" if found.format in _FORMATS else layouts.named(found.format).hint


def _loading_code(found: Contents) -> Sequence[str]:
    if found.format not in _FORMATS:  # several files, each with a code of its own
        return ()
    if found.format == Format.PICKLE:  # which no list of names makes safe
        return ()
    if found.is_torch_script:
        is_dangerous = any(permissions.permission(one) is Permission.DANGEROUS for one in found.imports)
        return () if is_dangerous else ("import torch", f"module = torch.jit.load({found.path!a})")
    return permissions.loading_code(found.path, found.imports, found.numpy_types)


def _values(found: Contents) -> dict[str, Any]:
    """The plain values of a file by their names."""
    values: dict[str, Any] = {}
    room = _MOST_TEXT
    for name, node in walk(found, ""):
        if node.kind is NodeKind.VALUE:
            values[name] = _plain(node.value)
            room -= len(name) + len(str(values[name]))
            if room < 0:
                raise UnsafeCheckpointError("refused: its names and values would fill the memory", found.path)
    return values


def _plain(one: Any) -> Any:
    """A value as JSON can hold it; a long one is shortened, or only counted."""
    if isinstance(one, (list, tuple, set, frozenset, dict)):
        if len(one) > _MOST_PARTS or isinstance(one, dict):
            return f"{len(one)} values"
        return [_plain(part) for part in one]
    if isinstance(one, (str, bytes)):
        start = one[:_LONGEST_TEXT]
        return (start if isinstance(start, str) else repr(start)) + "..." * (len(one) > _LONGEST_TEXT)
    return str(one) if isinstance(one, complex) else one
