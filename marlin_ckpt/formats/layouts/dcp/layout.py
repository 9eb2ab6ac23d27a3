"""Recognises a folder of torch's Distributed Checkpoint, and says what is in it and whether it holds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from marlin_ckpt.formats.layouts.layout import Names
from marlin_ckpt.formats.layouts.parts import Makeup, Part, ToolLayout, listed

if TYPE_CHECKING:
    from marlin_ckpt.formats.content.contents import Contents
    from marlin_ckpt.formats.layouts.dcp.saved import Saved
    from marlin_ckpt.formats.layouts.members import Folder
    from marlin_ckpt.formats.verdicts import Verdict
    from marlin_ckpt.formats.zip.records import OnBytes
    from marlin_ckpt.storage.store import Store

_METADATA, _SHARD = ".metadata", ".distcp"
_OF_RANK = re.compile(rf"__([0-9]{{1,9}})_[0-9]+\{_SHARD}")
_SIGNATURE = b"torch.distributed.checkpoint"  # near the start of each `.metadata`
_HEAD_BYTES = 256
_COMMON, _CONFIG = "common.pt", "metadata.json"  # of Megatron-Core
_LIGHTNINGS = "meta.pt"
_LARGE = 256 << 10  # bytes of metadata, of which a mere look at a folder reads no more than names


class DcpLayout(ToolLayout):
    """Reads such folders; see `Layout`."""

    name = "dcp"
    content = "a sharded checkpoint by torch.distributed.checkpoint"
    hint = "marlin_ckpt.load reads it, and so does torch.distributed.checkpoint.load"

    def recognises(self, names: Names) -> bool:
        """Whether there is metadata of it, or a shard."""
        return _METADATA in names.files or any(
            one.endswith((_SHARD, _METADATA)) and one.startswith("__") for one in names.files
        )

    def members(self, store: Store, folder: str, names: Names) -> tuple[str, ...]:
        """All files in the folder, where one of them says that it is such a folder."""
        if not any(one.endswith(_SHARD) for one in names.files):
            # Other tools write a `.metadata` as well.
            some = next((one for one in sorted(names.files) if one.endswith(_METADATA)), "")
            with store.open(f"{folder}/{some}" if folder else some) as source:
                if _SIGNATURE not in source.read(0, _HEAD_BYTES):
                    return ()
        return super().members(store, folder, names)

    def makeup(self, folder: Folder) -> Makeup:
        """What lies beside the shards, and which of these is missing."""
        from marlin_ckpt.errors import BadFileError  # noqa: PLC0415 - commands that read names go without
        from marlin_ckpt.formats.layouts.dcp.faults import faults_in, files_named  # noqa: PLC0415
        from marlin_ckpt.formats.layouts.dcp.saved import metadata_files, read_saved  # noqa: PLC0415

        found = _beside(folder)
        files = metadata_files(folder)
        if not files:
            return found
        if sum(folder.items[name].size_bytes for name in files) <= _LARGE:
            try:
                faults = faults_in(read_saved(folder), folder.items)
            except BadFileError as error:
                found.wrong.append(f"{listed(files)}: {error.what}")
                return found
            found.missing += faults.missing
            found.wrong += faults.wrong
            found.notes += faults.notes
            return found
        for name in files:
            with folder.open(name) as source:
                named = set(files_named(source.read(0, source.size_bytes)))
            if lost := sorted(named - {*folder.items}):
                found.missing.append(f"{listed(lost)} {'is' if len(lost) == 1 else 'are'} missing")
        return found

    def verify_in(self, folder: Folder, on_bytes: OnBytes) -> Verdict:
        """Reads every item whole; see `Layout.verify`."""
        from marlin_ckpt.formats.layouts.dcp import verdict  # noqa: PLC0415 - as above

        return verdict.verify(folder, _beside(folder), on_bytes)

    def contents_in(self, folder: Folder) -> Contents:
        """Makes one tree of all; see `Layout.contents`."""
        from marlin_ckpt.formats.layouts.assembly import assemble, joined  # noqa: PLC0415 - as above
        from marlin_ckpt.formats.layouts.dcp.faults import faults_in  # noqa: PLC0415
        from marlin_ckpt.formats.layouts.dcp.saved import metadata_files, read_saved  # noqa: PLC0415
        from marlin_ckpt.formats.layouts.dcp.tree import tree_of  # noqa: PLC0415

        found = _beside(folder)
        contents = assemble(folder, self.name, found)
        if not metadata_files(folder):
            return contents
        saved = read_saved(folder)
        faults = faults_in(saved, folder.items)
        root, imports = tree_of(folder, saved)
        gaps = [*faults.missing, *faults.wrong, *_unread(saved)]
        return joined(root, contents, imports, gaps)


def _unread(saved: Saved) -> list[str]:
    packed = sorted({name for one in saved.items for name in one.place.packing})
    return [f"its items went through {listed(packed)}, which is not read here"] if packed else []


def _beside(folder: Folder) -> Makeup:
    """The files beside the shards, and what is missing by the names alone."""
    found = Makeup()
    names = {name for name in folder.items if "/" not in name}
    if not any(one.endswith(_METADATA) for one in names):
        found.missing.append(f"the save did not finish: {_METADATA} is missing")
    elif _METADATA not in names:  # each rank has written metadata beside its shards
        ranks = sorted({int(one[1]) for one in map(_OF_RANK.fullmatch, names) if one})
        lost = [one for rank in ranks if (one := f"__{rank}{_METADATA}") not in names]
        found.missing += [f"{listed(lost)} {'is' if len(lost) == 1 else 'are'} missing"] if lost else []
    if _CONFIG in names or _COMMON in names:
        if _CONFIG in names:
            folder.json_object(_CONFIG, found.wrong)
            found.values = [_CONFIG]
        found.missing += [f"{one} is missing" for one in (_CONFIG, _COMMON) if one not in names]
    elif folder.name.endswith(".ckpt") and _LIGHTNINGS not in names:
        found.missing.append(f"{_LIGHTNINGS} is missing, which Lightning writes last")
    found.parts = [Part(one) for one in (_COMMON, _LIGHTNINGS) if one in names]
    return found
