"""A file becomes a sharded checkpoint and a sharded one a file, with everything in it, to the last bit."""

from __future__ import annotations

import os
import pickle
import resource
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from marlin_ckpt import Checkpoint, load, save
from marlin_ckpt.errors import (
    ArgumentsError,
    BadFileError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    NotACheckpointError,
    StorageError,
    UnsavableStateError,
)
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.formats.zip.writer import BYTEORDER, write_state
from marlin_ckpt.operations import one
from marlin_ckpt.operations.whole.converting import convert
from marlin_ckpt.storage.memory import MemoryTarget
from tests.support.equality import is_same
from tests.support.sharded_folders import loaded_by_torch, state_of, write


class Thing:
    """An object of the user's that holds a tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and torch.equal(self.tensor, other.tensor)

    __hash__ = None


def odd_state() -> dict[str, Any]:
    """What flat names alone would not bring back."""
    weight = torch.arange(12.0).reshape(3, 4)
    return {
        **state_of(3),
        "tied": weight,
        "again": weight,
        "turned": weight.t(),
        "row": weight[1],
        "empty": torch.ones(0, 3),
        "one": torch.tensor(5, dtype=torch.int32),
        "bfloat16": torch.ones(3, dtype=torch.bfloat16),
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
        "tuple": (1, (torch.ones(2), "a")),
        "list": [1, torch.ones(1), {}],
        "nested": {0: {1: {}}, (1, 2): torch.ones(1), "a.b": 1, "a": {"b": 2}},
        "ordered": OrderedDict(b=1, a=OrderedDict()),
        "lists": defaultdict(list, a=[torch.ones(1)]),
        "none": None,
        "bytes": b"\x00\xff",
        ".marlin.mine": 1,
        "sparse": torch.eye(3).to_sparse(),
    }


def load_all(path: Path) -> Any:
    return torch.load(path, weights_only=False)


@pytest.mark.parametrize("make", [state_of, odd_state])
def test_a_file_becomes_a_folder_and_a_file_again_with_all_that_it_held(tmp_path, make):
    state = make()
    sparse = state.pop("sparse", None)
    if sparse is not None:
        state["sparse"] = [sparse]  # which is compared below
    torch.save(state, tmp_path / "model_7.pt")
    done = convert(str(tmp_path / "model_7.pt"), str(tmp_path / "model_7.dcp"))
    assert one.verify(tmp_path / "model_7.dcp").status is Status.INTACT
    assert one.inspect(tmp_path / "model_7.dcp").manifest.index == 7
    back = convert(str(tmp_path / "model_7.dcp"), str(tmp_path / "back.pt"))
    assert one.verify(tmp_path / "back.pt").status is Status.INTACT
    found = load_all(tmp_path / "back.pt")
    assert list(found) == list(state)
    if sparse is not None:
        assert torch.equal(found.pop("sparse")[0].to_dense(), state.pop("sparse")[0].to_dense())
        assert found["tied"].data_ptr() == found["again"].data_ptr()
        assert done.shared == {"again": "tied"} == back.shared
        assert not is_same(found.pop("turned").stride(), state["turned"].stride())  # stored contiguously
        state.pop("turned")
    assert is_same(found, state)
    assert done.size_bytes == back.size_bytes


def test_the_file_of_a_checkpoint_keeps_its_manifest(tmp_path):
    state = state_of(3)
    save(Checkpoint(**state, metrics={"loss": 0.5}).payload(), tmp_path / "model_3.pt", index=3)
    convert(str(tmp_path / "model_3.pt"), str(tmp_path / "model_3.dcp"))
    convert(str(tmp_path / "model_3.dcp"), str(tmp_path / "back.pt"))
    first, folder, back = (
        one.inspect(tmp_path / name).manifest for name in ("model_3.pt", "model_3.dcp", "back.pt")
    )
    assert (folder.layout, folder.sharded.world_size) == ("sharded", 1)
    for each in (folder, back):
        assert (each.run_id, each.created, each.save_number) == (
            first.run_id,
            first.created,
            first.save_number,
        )
    assert (back.layout, back.sharded) == ("", None)
    assert is_same(load(tmp_path / "back.pt"), load(tmp_path / "model_3.pt"))


def test_a_sharded_checkpoint_of_many_ranks_becomes_a_file(tmp_path):
    write(tmp_path / "model_3.dcp", state_of(3), ranks=3, index=3)
    done = convert(str(tmp_path / "model_3.dcp"), str(tmp_path / "model_3.pt"))
    assert is_same(load_all(tmp_path / "model_3.pt"), state_of(3))
    assert (done.state, done.tensors) == ("all", 19)
    assert torch.load(tmp_path / "model_3.pt", weights_only=True).keys() == state_of(3).keys()


def test_torch_reads_the_folder_that_a_file_became(tmp_path):
    torch.save(state_of(3), tmp_path / "a.pt")
    convert(str(tmp_path / "a.pt"), str(tmp_path / "a.dcp"))
    found = loaded_by_torch(tmp_path / "a.dcp")
    assert is_same(found["module_interface_state"], dict(state_of(3)["module_interface_state"]))
    metadata = pickle.loads((tmp_path / "a.dcp" / ".metadata").read_bytes())
    assert pickle.dumps(metadata)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_folder_that_torch_wrote_becomes_a_file(tmp_path):
    import torch.distributed.checkpoint as dcp

    state = {"weight": torch.randn(5, 3), "optimizer": {"lr": 0.1, "moments": [torch.ones(2)]}}
    dcp.save(state, checkpoint_id=tmp_path / "step-1", no_dist=True)
    convert(str(tmp_path / "step-1"), str(tmp_path / "a.pt"))
    assert is_same(torch.load(tmp_path / "a.pt", weights_only=True), state)


def test_an_object_with_a_tensor_in_it_goes_there_and_back(tmp_path):
    torch.save({"thing": Thing(torch.randn(7)), "weight": torch.ones(3)}, tmp_path / "a.pt")
    convert(str(tmp_path / "a.pt"), str(tmp_path / "a.dcp"))
    convert(str(tmp_path / "a.dcp"), str(tmp_path / "b.pt"))
    assert is_same(load_all(tmp_path / "b.pt"), load_all(tmp_path / "a.pt"))


def test_damage_is_found_and_nothing_is_written(tmp_path):
    folder = write(tmp_path / "model_3.dcp", state_of(3), ranks=2)
    shard = folder / "__1_0.distcp"
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match="CRC"):
        convert(str(folder), str(tmp_path / "a.pt"))
    torch.save({"a": torch.zeros(1000)}, tmp_path / "b.pt")
    data = bytearray((tmp_path / "b.pt").read_bytes())
    data[2000] ^= 1
    (tmp_path / "b.pt").write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match="CRC"):
        convert(str(tmp_path / "b.pt"), str(tmp_path / "b.dcp"))
    assert sorted(os.listdir(tmp_path)) == ["b.pt", "model_3.dcp"]


def test_what_is_not_there_or_is_no_checkpoint_is_not_said_to_be_a_file(tmp_path):
    with pytest.raises(CheckpointNotFoundError):
        convert(str(tmp_path / "none.dcp"), str(tmp_path / "a.pt"))
    (tmp_path / "empty.dcp").mkdir()
    with pytest.raises(StorageError, match="is a directory"):
        convert(str(tmp_path / "empty.dcp"), str(tmp_path / "a.pt"))


def test_what_cannot_be_converted_is_refused_with_the_reason(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    folder = write(tmp_path / "model_3.dcp", {"a": torch.ones(1)}, ranks=1)
    for source, output, kind, what in (
        ("list.pt", "a.dcp", UnsavableStateError, "the state is no dict"),
        ("list.pt", "a.pt", NotACheckpointError, "a file already"),
        ("model_3.dcp", "a.dcp", NotACheckpointError, "sharded already"),
        ("list.pt", "a.safetensors", ArgumentsError, "expected a name that ends in"),
        ("list.pt", "model_3.dcp", StorageError, "is already there"),
    ):
        with pytest.raises(kind, match=what):
            convert(str(tmp_path / source), str(tmp_path / output))
    assert one.verify(folder).status is Status.INTACT


def test_what_is_there_is_replaced_where_that_is_asked_for(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    for _ in range(2):
        convert(str(tmp_path / "a.pt"), str(tmp_path / "a.dcp"), force=True)
        convert(str(tmp_path / "a.dcp"), str(tmp_path / "b.pt"), force=True)
    assert sorted(os.listdir(tmp_path)) == ["a.dcp", "a.pt", "b.pt"]


class Harm:
    """What runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_nothing_that_a_checkpoint_names_is_run(tmp_path):
    torch.save({"a": torch.ones(1), "harm": Harm(tmp_path / "harm")}, tmp_path / "a.pt")
    convert(str(tmp_path / "a.pt"), str(tmp_path / "a.dcp"))
    convert(str(tmp_path / "a.dcp"), str(tmp_path / "b.pt"))
    assert not (tmp_path / "harm").exists()


def test_kinds_that_nobody_has_written_are_damage(tmp_path):
    for number, kinds in enumerate(({(): {"keys": 5}}, {(): {"like": ()}, ("a",): {"order": 7}}, 7, {5: 6})):
        state = {"a": {"b": torch.ones(1)}, ".marlin.kinds": 1}
        del state[".marlin.kinds"]
        path = write(tmp_path / f"m_{number}.dcp", state, ranks=1, kinds=kinds)
        with pytest.raises(BadFileError):
            convert(str(path), str(tmp_path / f"{number}.pt"))


def test_lists_that_are_nested_too_deeply_are_refused_and_shared_ones_without_tensors_are_values(tmp_path):
    deep: Any = []
    for _ in range(600):
        deep = [deep]
    shared: Any = [1]
    for _ in range(60):
        shared = [shared, shared]
    (tmp_path / "deep.pt").write_bytes(file_of(deep))
    (tmp_path / "shared.pt").write_bytes(file_of(shared))
    with pytest.raises(UnsavableStateError, match="nested too deeply"):
        convert(str(tmp_path / "deep.pt"), str(tmp_path / "a.dcp"))
    convert(str(tmp_path / "shared.pt"), str(tmp_path / "b.dcp"))
    assert one.verify(tmp_path / "b.dcp").status is Status.INTACT


def file_of(value: Any) -> bytes:
    """A file with a state that has a value, which may be nested more deeply than pickle nests calls."""
    parts: list[Any] = [value]
    while parts[-1] and type(parts[-1][0]) is list:
        parts.append(parts[-1][0])
    pickled = b"]" if not parts[-1] else b"]K\x01a"
    for outer in reversed(parts[:-1]):
        pickled += b"q\x01" + b"0]" + b"h\x01a" * len(outer)
    target = MemoryTarget()
    write_state(target, b"\x80\x02}X\x01\x00\x00\x00a" + pickled + b"s.", BYTEORDER, [], None)
    return target.content()


def test_lists_that_hold_each_other_many_times_are_refused(tmp_path):
    value: Any = [torch.ones(1)]
    for _ in range(60):
        value = [value, value]
    torch.save({"a": value}, tmp_path / "a.pt")
    with pytest.raises(BadFileError, match="far more values"):
        convert(str(tmp_path / "a.pt"), str(tmp_path / "a.dcp"))


def test_no_more_than_two_tensors_are_in_memory(tmp_path):
    state = {f"t{number}": torch.full((4 << 20,), float(number)) for number in range(12)}  # 16 MiB each
    torch.save(state, tmp_path / "a.pt")
    del state
    pid = os.fork()
    if not pid:  # the highest use of a child is its own
        code = 1
        try:
            before = _peak()
            convert(str(tmp_path / "a.pt"), str(tmp_path / "a.dcp"))
            convert(str(tmp_path / "a.dcp"), str(tmp_path / "b.pt"))
            code = 0 if _peak() - before < (2 * 16 + 48) << 20 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
