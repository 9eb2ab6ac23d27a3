"""A tensor whose opcodes are read at once is the one that they make one by one, or is refused as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from marlin_ckpt import save
from marlin_ckpt.formats.torch.placement import Storages
from marlin_ckpt.formats.torch.plain import PlainUnpickler
from marlin_ckpt.formats.zip.reader import read_saved
from marlin_ckpt.formats.zip.records import read_record
from marlin_ckpt.storage.paths import open_source

COUNT = 60  # tensors; the places of the first few have another form


class OneByOne(PlainUnpickler):
    def _load_tensor(self) -> bool:
        return False


class Counting(PlainUnpickler):
    at_once = 0

    def _load_tensor(self) -> bool:
        has_loaded = super()._load_tensor()
        self.at_once += has_loaded
        return has_loaded


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[bytes, dict[str, Any]]:
    """The pickle of a state, and its records."""
    shapes = [(3, 4), (4,), (), (2, 3, 1)]
    state: dict[str, Any] = {f"w{number}": torch.zeros(shapes[number % 4]) for number in range(COUNT)}
    state["tied"] = state["w58"]
    state["view"] = state["w57"][1:]
    state["alias"] = state["w56"].view(3, 4)
    path = tmp_path_factory.mktemp("saved") / "state.pt"
    save(state, path)
    with open_source(str(path)) as source:
        container = read_saved(source)
        records = container.by_label
        return read_record(source, container, records["data.pkl"]), records


def loaded(kind: type[PlainUnpickler], saved: tuple[bytes, dict[str, Any]]) -> Any:
    """What an unpickler makes of the state: of each tensor all but its values, or that it is refused."""
    pickle, records = saved
    try:
        state = kind(pickle, Storages("state.pt", records)).load()
        owners = {one.untyped_storage()._cdata: name for name, one in state.items()}
        return {name: described(one, owners) for name, one in state.items()}
    except Exception:  # noqa: BLE001 - mutated pickles raise nearly anything
        return "refused"


def described(one: torch.Tensor, owners: dict[int, str]) -> tuple[Any, ...]:
    storage = one.untyped_storage()
    place = owners[storage._cdata], storage.nbytes(), one.storage_offset(), one.shape, one.stride()
    return type(one), one.dtype, one.requires_grad, *place


def test_most_tensors_are_read_at_once_and_are_those_of_their_opcodes(saved):
    pickle, records = saved
    unpickler = Counting(pickle, Storages("state.pt", records))
    state = unpickler.load()
    assert len(state) == COUNT + 3
    assert COUNT // 4 < unpickler.at_once < COUNT
    assert loaded(PlainUnpickler, saved) == loaded(OneByOne, saved) != "refused"


def test_a_flipped_bit_changes_no_tensor_in_another_way_than_it_changes_its_opcodes(saved):
    pickle, records = saved
    start, end = pickle.index(b"w52"), pickle.index(b"w53")
    flips = [(at, bit) for at in range(start, end) for bit in (0, 3, 7)]
    outcomes = set()
    for at, bit in flips:
        flipped = bytearray(pickle)
        flipped[at] ^= 1 << bit
        found = [loaded(kind, (bytes(flipped), records)) for kind in (PlainUnpickler, OneByOne)]
        assert found[0] == found[1], (at - start, bit)
        outcomes.add(found[0] == "refused")
    assert outcomes == {True, False}
