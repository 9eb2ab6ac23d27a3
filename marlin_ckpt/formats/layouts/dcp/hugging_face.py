"""Shards in safetensors, as DCP's storage for Hugging Face writes them: `shard-00001-model-00001-of-00001`.

Each file has the pieces of one rank under whole names; in its metadata `DCP_SHARDING_INFO` says where each
begins. Nothing states the shapes of the whole tensors: they end where their last piece does. Source:
torch/distributed/checkpoint/hf_storage.py of torch 2.13.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from marlin_ckpt.formats.layouts.hugging_face import has_weights
from marlin_ckpt.formats.layouts.layout import Names
from marlin_ckpt.formats.layouts.parts import Makeup, Part, ToolLayout, clauses, listed

if TYPE_CHECKING:
    from marlin_ckpt.formats.content.contents import Contents
    from marlin_ckpt.formats.layouts.dcp.pieces import Described
    from marlin_ckpt.formats.layouts.members import Folder
    from marlin_ckpt.formats.values.tensor import Piece, TensorInfo
    from marlin_ckpt.formats.verdicts import Verdict
    from marlin_ckpt.formats.zip.records import OnBytes
    from marlin_ckpt.storage.store import Store

_SHARD = re.compile(r"shard-[0-9]{5}-model-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.safetensors")
_INDEX = ".safetensors.index.json"
_WITHIN = "sharded"  # where they are until they are merged
_INFO = "DCP_SHARDING_INFO"
_MOST_MISSING = 1_000
_UNNOTICED = "whether the last ranks are all there is not known: no file states the shapes of whole tensors"


class DcpHuggingFaceLayout(ToolLayout):
    """Reads such folders; see `Layout`."""

    name = "dcp-hugging-face"
    content = "shards by torch.distributed.checkpoint's storage for Hugging Face"
    hint = "torch.distributed.checkpoint.load with HuggingFaceStorageReader reads it"

    def recognises(self, names: Names) -> bool:
        """Whether there are such shards, or a folder that may have them where they are not merged yet."""
        if any(map(_SHARD.fullmatch, names.files)):
            return True
        is_merged = has_weights(names.files) or any(one.endswith(_INDEX) for one in names.files)
        return _WITHIN in names.folders and not is_merged

    def members(self, store: Store, folder: str, names: Names) -> tuple[str, ...]:
        """All files in the folder, where there are such shards among them."""
        found = super().members(store, folder, names)
        start = len(folder) + 1 if folder else 0
        return found if any(_is_shard(one[start:]) for one in found) else ()

    def makeup(self, folder: Folder) -> Makeup:
        """The shards, and what their headers contradict."""
        return _read(folder).makeup

    def verify_in(self, folder: Folder, on_bytes: OnBytes) -> Verdict:
        """Reads every header; see `Layout.verify`."""
        from marlin_ckpt.formats.layouts import judgement  # noqa: PLC0415 - commands that read names go without

        found = _read(folder)
        verdict = judgement.judge(folder, found.makeup, on_bytes)
        if verdict.status.is_bad:
            return verdict._replace(tensors=(*found.names, *verdict.tensors))
        return verdict._replace(reason=f"{verdict.reason}; {_UNNOTICED}")

    def contents_in(self, folder: Folder) -> Contents:
        """Puts the pieces together; see `Layout.contents`."""
        from marlin_ckpt.formats.content.contents import Contents  # noqa: PLC0415 - as above
        from marlin_ckpt.formats.content.node import Node, NodeKind  # noqa: PLC0415
        from marlin_ckpt.formats.values.tensor import TensorInfo, contiguous_stride  # noqa: PLC0415

        found = _read(folder)
        tensors = tuple(
            TensorInfo(
                name, one.dtype, one.shape, contiguous_stride(one.shape), 0, name, 0, 0,
                pieces=tuple(found.pieces[name]),
            )
            for name, one in found.tensors.items()
        )  # fmt: skip
        nodes = [Node(one.name, NodeKind.TENSOR, tensor=one) for one in tensors]
        root = Node("", NodeKind.MAPPING, children=nodes, origin={one.key: one.origin for one in nodes})
        size_bytes = sum(item.size_bytes for item in folder.items.values())
        gaps = clauses([*found.makeup.missing, *found.makeup.wrong])
        return Contents(folder.path, self.name, size_bytes, root, tensors, gaps=gaps)


class _Shards(NamedTuple):
    """What the headers of the shards say.

    Attributes:
        tensors: by their names, each with the shape in which its last pieces end.
        pieces: of each.
        makeup: with what is missing and wrong.
        names: of the tensors that are not whole.
    """

    tensors: dict[str, Described]
    pieces: dict[str, list[Piece]]
    makeup: Makeup
    names: list[str]


def _is_shard(name: str) -> bool:
    return _SHARD.fullmatch(name.removeprefix(f"{_WITHIN}/")) is not None


def _read(folder: Folder) -> _Shards:
    from marlin_ckpt.errors import BadFileError  # noqa: PLC0415 - commands that read names go without
    from marlin_ckpt.formats.layouts.dcp.faults import Faults, look_at_pieces  # noqa: PLC0415
    from marlin_ckpt.formats.safetensors.header import read_header  # noqa: PLC0415

    names = sorted(name for name in folder.items if _is_shard(name))
    found = _Shards({}, {}, Makeup(parts=[Part(name) for name in names]), [])
    faults = Faults(found.makeup.missing, found.makeup.wrong, found.makeup.notes, found.names, set())
    faults.missing.extend(_absent(names))
    for name in names:
        try:
            with folder.open(name) as source:
                header = read_header(source)
            starts = _starts(header.metadata.get(_INFO, "{}"), source.path)
        except BadFileError as error:
            faults.wrong.append(f"{name}: {error.what}")
            continue
        for tensor in header.tensors:
            _add(found, name, tensor, starts.get(tensor.name, (0,) * len(tensor.shape)))
    if not faults.wrong:
        for name, described in found.tensors.items():
            look_at_pieces(name, described, faults, may_lack=True)
    return found


def _absent(names: list[str]) -> list[str]:
    """The files that no rank wrote any part of, of as many as their names count."""
    read = [_SHARD.fullmatch(name.removeprefix(f"{_WITHIN}/")) for name in names]
    there = {int(one["number"]) for one in read if one}
    count = min(max((int(one["count"]) for one in read if one), default=0), _MOST_MISSING)
    absent = [f"model-{one:05d}-of-{count:05d}" for one in range(1, count + 1) if one not in there]
    return [f"no shard of {listed(absent)} is there"] if absent else []


def _starts(text: str, path: str) -> dict[str, tuple[int, ...]]:
    """Where each piece begins.

    Raises:
        CorruptCheckpointError: it does not say so.
    """
    import json  # noqa: PLC0415 - as above

    from marlin_ckpt.errors import CorruptCheckpointError  # noqa: PLC0415
    from marlin_ckpt.formats.budget import check_json  # noqa: PLC0415

    check_json(text.encode("utf-8", "surrogatepass"), path)
    try:
        starts = {name: tuple(one["saved_offsets"]) for name, one in json.loads(text).items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptCheckpointError(f"its {_INFO} is damaged", path) from error
    if any(type(at) is not int or not 0 <= at < 2**63 for one in starts.values() for at in one):
        raise CorruptCheckpointError(f"its {_INFO} is damaged", path)
    return starts


def _add(found: _Shards, file: str, tensor: TensorInfo, start: tuple[int, ...]) -> None:
    from marlin_ckpt.formats.layouts.dcp.pieces import Chunk, Described  # noqa: PLC0415 - as above
    from marlin_ckpt.formats.values.tensor import Piece  # noqa: PLC0415

    name, short = tensor.name, tensor.name[:100]
    before = found.tensors.get(name, Described(tensor.dtype, tensor.shape, ()))
    if before.dtype != tensor.dtype or not len(before.shape) == len(tensor.shape) == len(start):
        found.makeup.wrong.append(f"{file} has {short} of another type or shape than another shard")
        found.names.append(short)
        return
    ends = tuple(at + size for at, size in zip(start, tensor.shape, strict=True))
    shape = tuple(map(max, before.shape, ends))
    found.tensors[name] = Described(tensor.dtype, shape, (*before.chunks, Chunk(start, tensor.shape)))
    found.pieces.setdefault(name, []).append(
        Piece(file, tensor.start, tensor.storage_bytes, start, tensor.shape, is_bare=True)
    )
