"""Writes states to files: from where their tensors are, or from an image of the file."""

import ctypes
import functools
import io
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint
from torch.storage import UntypedStorage

from marlin_ckpt.errors import MarlinError, StorageError
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats import digests, statistics
from marlin_ckpt.formats.digests import Digesting
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.shared import Held, Shared
from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.formats.torch.pickler import Encoded, encode
from marlin_ckpt.formats.zip import planning, structures, writer
from marlin_ckpt.formats.zip.planning import Plan
from marlin_ckpt.formats.zip.structures import ALIGNMENT
from marlin_ckpt.formats.zip.writer import BYTEORDER, Observer, write_state
from marlin_ckpt.storage.local.publishing import Published
from marlin_ckpt.storage.memory import MemoryTarget
from marlin_ckpt.storage.paths import publish
from marlin_ckpt.storage.target import Fill, Target
from marlin_ckpt.urls import is_url


@dataclass(frozen=True, slots=True)
class Written(Published):
    """What became of a save.

    Attributes:
        refused: what in the file `weights_only` refuses: names that loading it would import; usually none.
    """

    refused: tuple[str, ...]


class Image(NamedTuple):
    """A file in memory, in which the data of the storages lies at its place.

    Attributes:
        memory: `plan.size_bytes` and a block, beginning at a page's border.
        plan: where the data lies.
    """

    memory: memoryview
    plan: Plan


def write_file(  # noqa: PLR0913, PLR0917 - all but the first three are seldom given
    path: PathText,
    state: Any,
    manifest: Manifest,
    overwrite: bool = True,
    has_statistics: bool = False,
    data_of: Callable[[UntypedStorage], memoryview] | None = None,
) -> Written:
    """Writes a state to a file, atomically and durably.

    Args:
        path: the final name.
        state: anything that can be pickled.
        manifest: without its records, which are filled in here.
        overwrite: whether a file that has the name is replaced.
        has_statistics: whether the statistics of the tensors are saved, too.
        data_of: the data of a storage, asked for when its turn comes, and needed until the next one's; None:
            what is in it.

    Raises:
        UnsavableStateError: the state cannot be pickled.
        MarlinError: what `data_of` raises.
        StorageError: the file cannot be written. Either way the old file stands; see `publish`.
    """
    return write_encoded(path, encode(state), manifest, overwrite, has_statistics, data_of)


def write_encoded(  # noqa: PLR0913, PLR0917 - as `write_file`
    path: PathText,
    encoded: Encoded,
    manifest: Manifest,
    overwrite: bool = True,
    has_statistics: bool = False,
    data_of: Callable[[UntypedStorage], memoryview] | None = None,
) -> Written:
    """Writes a pickled state to a file, as `write_file`."""
    was_read = False

    def data() -> Iterator[tuple[str, bytes | memoryview]]:
        nonlocal was_read
        if data_of is None:
            yield from _stored(encoded, is_watched=has_statistics)
            return
        if was_read:
            what = "cannot write: the store has ended the upload, and what was gathered for it is gone"
            raise StorageError(what, os.fspath(path), "save again")
        was_read = True
        for key, storage in encoded.storages.items():
            yield f"data/{key}", data_of(storage)

    fill = _filling(encoded, data, manifest, {}, has_statistics=has_statistics)
    about = manifest.brief() if is_url(path) else ""
    done = publish(path, fill, encoded.size_bytes, overwrite=overwrite, about=about)
    return _written(path, encoded, done)


def write_shared(  # noqa: PLR0913, PLR0917 - as `write_file`
    path: PathText,
    encoded: Encoded,
    manifest: Manifest,
    shared: Shared,
    before_renaming: Callable[[], None],
    overwrite: bool = True,
    has_statistics: bool = False,
) -> Written:
    """Writes a pickled state to a file, as `write_file`, that shares with others.

    Args:
        path: the final name.
        encoded: the state.
        manifest: as for `write_file`.
        shared: what is shared; not written from memory, whatever is there by then.
        before_renaming: called when all is durable but the name; may raise.
        overwrite: whether a file that has the name is replaced.
        has_statistics: as for `write_file`.

    Raises:
        As `write_file` does, or what `before_renaming` raised.
    """
    data = functools.partial(_stored, encoded, is_watched=True)
    fill = _filling(encoded, data, manifest, {}, has_statistics=has_statistics, shared=shared)
    done = publish(
        path, fill, encoded.size_bytes,
        shared_bytes=shared.size_bytes, earlier=shared.earlier,
        before_renaming=before_renaming, overwrite=overwrite,
        about=manifest.brief() if is_url(path) else "",
    )  # fmt: skip
    return _written(path, encoded, done)


def plan_image(encoded: Encoded, *, has_statistics: bool = False, alignment: int = ALIGNMENT) -> Plan:
    """Where a file of a pickled state will have its bytes; see `Shared` for the alignment."""
    own_bytes = statistics.MOST_BYTES if has_statistics else 0
    own_bytes += 0 if alignment == ALIGNMENT else digests.MOST_BYTES
    return planning.plan(encoded.pickle, BYTEORDER, sizes_of(encoded), own_bytes, alignment)


def write_image(  # noqa: PLR0913, PLR0917 - what `publish` asks for
    path: PathText,
    encoded: Encoded,
    manifest: Manifest,
    image: Image,
    before_renaming: Callable[[], None],
    overwrite: bool = True,
    has_statistics: bool = False,
    sums: Mapping[str, int] = MappingProxyType({}),
    shared: Shared | None = None,
) -> Written:
    """Writes a pickled state to a file, as `write_file`, from an image of the file.

    Args:
        path: the final name.
        encoded: the state; its storages are not read.
        manifest: as for `write_file`.
        image: with the data in it; the rest is filled in here.
        before_renaming: called when all is durable but the name; may raise.
        overwrite: whether a file that has the name is replaced.
        has_statistics: as for `write_file`; the image was planned for them.
        sums: the CRC32 of storages in the image, by their keys, as far as they are known.
        shared: what the file shares with others; the image was planned with its alignment.

    Raises:
        As `write_file` does, or what `before_renaming` raised.
    """
    sizes = sizes_of(encoded)
    data = [(name, image.memory[at : at + sizes[name]]) for name, at in image.plan.offsets.items()]
    named = {f"data/{key}": crc32 for key, crc32 in sums.items()}
    fill = _filling(encoded, lambda: data, manifest, named, has_statistics=has_statistics, shared=shared)
    done = publish(
        path, fill, encoded.size_bytes,
        image=image.memory, shared_bytes=shared and shared.size_bytes, earlier=shared and shared.earlier,
        before_renaming=before_renaming, overwrite=overwrite,
        about=manifest.brief() if is_url(path) else "",
    )  # fmt: skip
    return _written(path, encoded, done)


def _stored(encoded: Encoded, *, is_watched: bool) -> Iterator[tuple[str, bytes | memoryview]]:
    """The data of the storages, by the names of their records.

    Args:
        encoded: the state.
        is_watched: whether observers are told of them; else little data comes as a copy, which takes less
            time than a view.
    """
    is_here = encoded.kinds <= {"cpu"}
    for key, storage in encoded.storages.items():
        local = storage if is_here else on_cpu(storage)
        size = local.nbytes()
        is_copied = size <= writer.SMALL_BYTES and not is_watched
        take = ctypes.string_at if is_copied else memory
        yield f"data/{key}", take(local.data_ptr(), size)


def _filling(  # noqa: PLR0913 - as `write_image`
    encoded: Encoded,
    data: Callable[[], Iterable[tuple[str, bytes | memoryview]]],
    manifest: Manifest,
    sums: Mapping[str, int],
    *,
    has_statistics: bool,
    shared: Shared | None = None,
) -> Fill:
    alignment, same = (ALIGNMENT, {}) if shared is None else (shared.alignment, shared.records)
    spans = {name: one.span for name, one in same.items()}
    sums = {**{name: one.crc32 for name, one in same.items()}, **sums}

    def fill(target: Target) -> None:
        observers: list[Observer] = []
        if has_statistics and (gathering := _gathering(encoded)):
            observers.append(gathering)
        if shared is None or alignment == ALIGNMENT:
            write_state(target, encoded.pickle, BYTEORDER, data(), manifest, observers, sums)
            return
        digesting = Digesting(shared.origin, {name: one.digested for name, one in same.items()})
        observers.append(digesting)
        about = (manifest, observers, sums, alignment, spans)
        for one in write_state(target, encoded.pickle, BYTEORDER, data(), *about):
            if digested := digesting.found.get(one.label):
                start = structures.data_offset(one, alignment)
                shared.held[one.label] = Held(digested, one.crc32, start, one.size)

    return fill


def _gathering(encoded: Encoded) -> Observer | None:
    """What gathers the statistics; None where finding the tensors' names takes too much time or memory."""
    from marlin_ckpt.formats.content.contents import tensors_of  # noqa: PLC0415 - most saves go without
    from marlin_ckpt.formats.values.gathering import Gathering  # noqa: PLC0415

    try:
        return Gathering(tensors_of(encoded.pickle, encoded.sizes))
    except MarlinError:  # no save fails for its statistics
        return None


def _written(path: PathText, encoded: Encoded, done: Published) -> Written:
    file = _pickle_alone(encoded) if is_url(path) else os.fspath(path)
    return Written(done.size_bytes, done.write_s, done.sync_s, _refused(file, encoded))


def _pickle_alone(encoded: Encoded) -> io.BytesIO:
    """A file with the pickle and no tensors, for torch to look at where the whole one is far away."""
    target = MemoryTarget()
    container = writer.ContainerWriter(target)
    container.add("data.pkl", encoded.pickle)
    container.add("version", b"3\n")
    container.close()
    return io.BytesIO(target.content())


def on_cpu(storage: UntypedStorage) -> UntypedStorage:
    """A storage in this process's memory: itself, or a copy of one on a device."""
    local: UntypedStorage = storage if storage.device.type == "cpu" else storage.cpu()  # type: ignore[no-untyped-call]
    return local


def data_of(storage: UntypedStorage, most_bytes: int | None) -> memoryview:
    """The first bytes of a storage, or all where None are asked for; of one on a device a copy."""
    size = storage.nbytes() if most_bytes is None else min(most_bytes, storage.nbytes())
    return bytes_of(storage, 0, size)


def bytes_of(storage: UntypedStorage, start: int, size: int) -> memoryview:
    """Some bytes of a storage, which lives as long as they do; of one on a device a copy."""
    bare = torch.empty(0, dtype=torch.uint8, device=storage.device)
    return bare.set_(storage, start, (size,), (1,)).cpu().numpy().data


def sizes_of(encoded: Encoded) -> dict[str, int]:
    """The lengths of the records of a state's storages in bytes, by their names."""
    return {f"data/{key}": size for key, size in encoded.sizes.items()}


def _refused(path: str | io.BytesIO, encoded: Encoded) -> tuple[str, ...]:
    """What of a file `weights_only` would not read."""
    if encoded.is_familiar:
        return tuple(sorted(encoded.unreadable))
    try:
        return (*sorted(get_unsafe_globals_in_checkpoint(path)), *sorted(encoded.unreadable))
    except pickle.UnpicklingError as error:  # torch's scan ends at the first opcode that it does not know
        return tuple(sorted(encoded.unreadable)) or (str(error),)
