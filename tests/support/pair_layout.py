"""A layout for tests: the folder `{prefix}_{index}.pair`, with a manifest and its weights."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from marlin_ckpt.entries import Entry
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.content.contents import Contents
from marlin_ckpt.formats.layouts import Names
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.verdicts import Inspection, Status, Verdict
from marlin_ckpt.naming import FileName, Kind, parse_any
from marlin_ckpt.storage.store import Store

WEIGHTS = "weights.bin"


class PairLayout(layouts.Layout):
    """Knows such folders."""

    name = "pair"
    manifest = "manifest.json"

    content = ""
    is_ours = True
    is_flat = False
    hint = ""

    def recognises(self, names: Names) -> bool:
        return self.manifest in names.files

    def contents(self, store: Store, entry: Entry) -> Contents:
        raise NotImplementedError

    def read_name(self, folder: str) -> FileName | None:
        return parse_any(folder, "pair")

    def members(self, store: Store, folder: str, names: Names) -> tuple[str, ...]:
        if self.read_name(os.path.basename(folder)) is None:
            return ()
        return tuple(f"{folder}/{one}" for one in (WEIGHTS, self.manifest) if one in names.files)

    def inspect(self, store: Store, entry: Entry) -> Inspection:
        about = self._about(store, entry)
        manifest = Manifest(
            kind=Kind.CHECKPOINT,
            index=entry.index or 0,
            created="",
            run_id=about["run_id"],
            save_number=0,
            metrics={"loss": about["loss"]},
            versions={},
        )
        return Inspection(entry, Status.COMPLETE, "", manifest)

    def verify(self, store: Store, entry: Entry, on_bytes: Callable[[int], None]) -> Verdict:
        with store.open(f"{entry.item.name}/{WEIGHTS}") as source:
            crc = zlib.crc32(source.read(0, source.size_bytes))
            on_bytes(source.size_bytes)
        if crc == self._about(store, entry)["crc"]:
            return Verdict(entry.path, Status.INTACT, size_bytes=entry.size_bytes)
        return Verdict(entry.path, Status.CORRUPT, "the weights are damaged", size_bytes=entry.size_bytes)

    def _about(self, store: Store, entry: Entry) -> dict:
        with store.open(f"{entry.item.name}/{self.manifest}") as source:
            return json.loads(source.read(0, source.size_bytes))


@contextmanager
def registered() -> Iterator[PairLayout]:
    """Makes the layout known for as long as the context lasts."""
    layout = PairLayout()
    layouts.register(layout)
    try:
        yield layout
    finally:
        del layouts._known[layout.name]


def write_pair(directory: str | Path, index: int, *, prefix: str = "model", run_id: str = "run") -> Path:
    """Writes such a checkpoint; the files below it look like checkpoints of their own as well."""
    folder = Path(directory, f"{prefix}_{index}.pair")
    folder.mkdir(parents=True)
    weights = bytes([index]) * 1000
    (folder / WEIGHTS).write_bytes(weights)
    (folder / "model_99.pt").write_bytes(b"no checkpoint for itself")
    about = {"crc": zlib.crc32(weights), "loss": float(index), "run_id": run_id}
    (folder / PairLayout.manifest).write_text(json.dumps(about))
    return folder
