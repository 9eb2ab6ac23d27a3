"""Gathers the DTensors of a state at rank 0, one after the other, for what is written as one file."""

from __future__ import annotations

import copy
import hashlib
import io
import math
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from marlin_ckpt.distributed.failures import share, together
from marlin_ckpt.distributed.flat import local_of
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.reads.boxes import Box
from marlin_ckpt.distributed.reads.tensors import box_of
from marlin_ckpt.errors import RankError, UnsavableStateError
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.torch.memory import identity, memory
from marlin_ckpt.formats.torch.writer import Written, on_cpu, write_file

_OF_RANKS = "trainer_state", "ranks"
_NUMBERS = 1 << 62  # `Ranks.are_alike` compares 63 bits
_FOLDER_HINT = "have all ranks save a folder, under a name that ends in .dcp: it takes what each of them has"


def write_gathered(  # noqa: PLR0913, PLR0917 - what `write_file` takes, and the ranks
    path: PathText,
    state: Any,
    manifest: Manifest,
    ranks: Ranks,
    overwrite: bool = True,
    has_statistics: bool = False,
) -> Written:
    """Writes the state of all ranks to one file, as `write_file` does; all ranks call this.

    Rank 0 writes, and has never more than two whole tensors in memory beside its own part of the state; the
    other ranks send theirs. Of what no DTensor is, rank 0's counts.

    Args:
        path: the final name.
        state: of this rank; alike at all ranks but for the data of DTensors.
        manifest: see `write_file`.
        ranks: of the run.
        overwrite: see `write_file`.
        has_statistics: see `write_file`.

    Returns:
        what became of it, at all ranks.

    Raises:
        UnsavableStateError, StorageError: see `write_file`; at all ranks.
        RankError: a rank has ended, or did not answer in time.
    """
    gathering = Gathering(state, ranks)
    failed: Exception | None = None
    done: Written | None = None
    if ranks.is_main:
        try:
            done = write_file(path, gathering.state, manifest, overwrite, has_statistics, gathering.data)
        except Exception as error:  # noqa: BLE001 - raised again, here and at the other ranks
            failed = error
    try:
        if not isinstance(failed, RankError):
            gathering.end()
        share(ranks, failed)
    finally:
        del failed  # its frames would hold what was written
    written: Written = ranks.told(done)
    return written


def with_all_ranks(state: Any, ranks: Ranks) -> Any:
    """A state in which rank 0 has what each rank keeps of its own, under `trainer_state["ranks"]`.

    Args:
        state: of this rank, with its own alone; it is not changed itself.
        ranks: which all call this.

    Returns:
        at rank 0 the state with those of all; elsewhere the state itself.
    """
    trainer = state.get(_OF_RANKS[0]) if isinstance(state, dict) else None
    own = trainer.get(_OF_RANKS[1]) if isinstance(trainer, dict) else None
    found = ranks.gathered(together(ranks, lambda: _packed(own)))

    def completed() -> Any:
        if found is None or not isinstance(trainer, dict) or not isinstance(own, dict):
            return state
        merged: dict[str, Any] = {}
        for one in found:
            merged |= _unpacked(one) or {}
        return {**state, _OF_RANKS[0]: {**trainer, _OF_RANKS[1]: merged}}

    return together(ranks, completed)


def _packed(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)  # pickle alone makes what it cannot read of tensors without a typed storage
    return stream.getvalue()


def _unpacked(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)  # of our own run


class Gathering:
    """The DTensors of a state, whole at rank 0 as it asks for them; all ranks make one at the same time.

    Args:
        state: of this rank.
        ranks: of the run, over which nothing else happens until all have called `end`.

    Attributes:
        state: with plain tensors in the places of DTensors, which have no values and take no memory.
    """

    def __init__(self, state: Any, ranks: Ranks) -> None:
        self._ranks = ranks
        self._tensors: list[DTensor] = []
        self._places: dict[Any, torch.Tensor] = {}  # what stands for a DTensor, by where its part is
        self._numbers: dict[int, int] = {}  # of the DTensors, by the storages of these
        self._held: Any = None
        _check(state, ranks)
        self.state = self._replaced(state)
        boxes = [box_of(one) for one in self._tensors]
        found = ranks.gathered(pickle.dumps(boxes))
        self._boxes: list[list[Box]] = [pickle.loads(one) for one in found or ()]  # noqa: S301 - of our own run

    def data(self, storage: torch.UntypedStorage) -> memoryview:
        """The data of a storage of `state`, at rank 0; it is there until the next call.

        Raises:
            RankError: a rank has ended, or did not answer in time.
        """
        number = self._numbers.get(identity(storage))
        if number is None:
            self._held = on_cpu(storage)
            return memory(self._held.data_ptr(), self._held.nbytes())
        self._held = None  # before the next one takes memory
        self._held = self._gather(number)
        return memory(self._held.data_ptr(), self._held.nbytes)

    def end(self) -> None:
        """Says at rank 0 that all was asked for; at the others sends what it asks for until then.

        Raises:
            RankError: a rank has ended, or did not answer in time.
        """
        self._held = None
        if self._ranks.is_main:
            self._ranks.told(None)
            return
        while (asked := self._ranks.told()) is not None:
            number, owners = asked
            if self._ranks.rank in owners:
                self._ranks.send(_bytes_of(_part(self._tensors[number])), 0)

    def _gather(self, number: int) -> torch.Tensor:
        tensor = self._tensors[number]
        parts = ((boxes[number], rank) for rank, boxes in reversed(list(enumerate(self._boxes))))
        owners = {box: rank for box, rank in parts if math.prod(box.shape)}
        # What could fail comes before the others are asked: they would wait for somebody who receives.
        whole = torch.empty(tensor.shape, dtype=tensor.dtype)
        longest = max((math.prod(box.shape) for box, rank in owners.items() if rank), default=0)
        room = torch.empty(longest, dtype=tensor.dtype)
        own = _part(tensor) if 0 in owners.values() else None
        self._ranks.told((number, sorted(set(owners.values()) - {0})))
        for box, rank in sorted(owners.items(), key=lambda one: one[1]):
            part = own
            if part is None or rank:
                part = room[: math.prod(box.shape)].view(box.shape)
                self._ranks.receive(_bytes_of(part), rank)
            whole[tuple(slice(at, at + size) for at, size in zip(*box, strict=True))] = part
        return whole

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, DTensor):
            return self._place(value)
        if isinstance(value, dict):
            parts = {key: self._replaced(one) for key, one in value.items()}
            if all(parts[key] is one for key, one in value.items()):
                return value
            whole = copy.copy(value)
            whole.update(parts)
            return whole
        if type(value) in (list, tuple):
            listed = [self._replaced(one) for one in value]
            if all(one is before for one, before in zip(listed, value, strict=True)):
                return value
            return listed if type(value) is list else tuple(listed)
        return value

    def _place(self, tensor: DTensor) -> torch.Tensor:
        """What stands for a DTensor; for tied ones at rank 0 the same."""
        number = len(self._tensors)
        self._tensors.append(tensor)
        local = local_of(tensor)
        key: Any = number
        if local.numel():
            key = local.data_ptr(), local.dtype, tuple(local.stride()), tuple(tensor.shape)
        if key not in self._places:
            place = self._places[key] = torch.empty(tensor.shape, dtype=tensor.dtype)
            if place.numel():
                self._numbers[identity(place.untyped_storage())] = number
        return self._places[key]


def _part(tensor: DTensor) -> torch.Tensor:
    return local_of(tensor).detach().cpu().contiguous()


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _check(state: Any, ranks: Ranks) -> None:
    """Refuses what would be lost, since rank 0 alone writes the states of all; all ranks call this.

    Args:
        state: of this rank.
        ranks: of the run.

    Raises:
        UnsavableStateError: a rank has sharded tensors that rank 0 has not, or in another order; or names
            of anything else that rank 0 has not.
    """
    parts: list[str] = []
    others: list[str] = []
    for name, value in _named(state, ""):
        if isinstance(value, DTensor):
            dtype = str(value.dtype).removeprefix("torch.")
            parts.append(f"{name} {dtype} {[*value.shape]}")
        else:
            others.append(name)
    if ranks.are_alike(_number(parts), _number(others)):
        return
    of_main = ranks.told((parts, others))

    def compare() -> None:
        if parts != of_main[0]:
            only = next((one for one in parts if one not in of_main[0]), "")
            what = f"this rank has the sharded tensor {only}, and rank 0 has not" if only else ""
            raise UnsavableStateError(
                what or "this rank has other sharded tensors than rank 0", "", _FOLDER_HINT
            )
        if lost := sorted({*others} - {*of_main[1]}):
            raise UnsavableStateError(f"this rank has {lost[0]}, which rank 0 has not", "", _FOLDER_HINT)

    together(ranks, compare)


def _named(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """What is no container, by its keys; of what stands in lists only where keys or sharded tensors are."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            path = f"{name}.{key}" if name else str(key)
            if isinstance(one, (Mapping, list, tuple)):
                yield from _named(one, path)
            else:
                yield path, one
    elif isinstance(value, (list, tuple)):
        for place, one in enumerate(value):
            yield from _named(one, f"{name}[{place}]")
    elif isinstance(value, DTensor):
        yield name, value


def _number(names: list[str]) -> int:
    """A number that is the same in every process, as `hash` is not."""
    data = "\0".join(names).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) % _NUMBERS
