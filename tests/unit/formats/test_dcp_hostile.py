"""Metadata of distributed checkpoints that is hostile, or contradicts itself: refused, and nothing runs."""

from __future__ import annotations

import os

import pytest
import torch

from marlin_ckpt.directory import catalog
from marlin_ckpt.errors import BadFileError, UnsafeCheckpointError
from marlin_ckpt.formats import inspection
from marlin_ckpt.formats.budget import ExcessError
from marlin_ckpt.formats.layouts.dcp import faults
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.operations import one
from tests.support.dcp import entry_of, metadata_of, read_all, rewrite, verified
from tests.support.foreign import dcp_folders, dcp_writing
from tests.support.foreign.made import Made


@pytest.fixture
def made(tmp_path) -> Made:
    return dcp_folders.make_dcp(tmp_path)


class Runs:
    """Unpickling it would run something."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch was-here",)


def test_metadata_with_code_in_it_is_refused_and_nothing_runs(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metadata = metadata_of(made.path)
    metadata.extra = Runs()
    rewrite(made.path, metadata)
    with pytest.raises(UnsafeCheckpointError, match=r"it would import posix\.system") as refused:
        one.read(str(made.path))
    assert refused.value.names == ("posix.system",)
    assert verified(made.path).status.is_bad or verified(made.path).status is Status.NOT_A_CHECKPOINT
    assert not (tmp_path / "was-here").exists()


def _outside(metadata):
    next(iter(metadata.storage_data.values())).relative_path = "../secret"


def _absolute(metadata):
    next(iter(metadata.storage_data.values())).relative_path = "/etc/passwd"


def _behind_the_end(metadata):
    next(iter(metadata.storage_data.values())).offset = 2**62


def _negative(metadata):
    next(iter(metadata.storage_data.values())).offset = -5


def _negative_length(metadata):
    next(iter(metadata.storage_data.values())).length = -5


def _over_each_other(metadata):
    first, second = list(metadata.storage_data.values())[:2]
    first.relative_path, first.offset = second.relative_path, second.offset + 1


def _huge(metadata):
    described = metadata.state_dict_metadata["model.lm_head.weight"]
    described.size = torch.Size([2**62, 4])


def _doubled(metadata):
    described = metadata.state_dict_metadata["model.lm_head.weight"]
    described.chunks[1].offsets = described.chunks[0].offsets


def _of_other_dimensions(metadata):
    metadata.state_dict_metadata["model.lm_head.weight"].chunks[0].offsets = torch.Size([0])


def _cyclic(metadata):
    loop: list[object] = []
    loop.append(loop)
    metadata.planner_data = {"model.lm_head.weight": (loop,)}
    metadata.state_dict_metadata["model.lm_head.weight"].chunks = loop


@pytest.mark.parametrize(
    "change",
    [
        _outside, _absolute, _behind_the_end, _negative, _negative_length, _over_each_other, _huge, _doubled,
        _of_other_dimensions, _cyclic,
    ],
)  # fmt: skip
def test_metadata_that_contradicts_is_corrupt_and_nothing_is_exported(made, change):
    metadata = metadata_of(made.path)
    change(metadata)
    rewrite(made.path, metadata)
    verdict = verified(made.path)
    assert verdict.status is Status.CORRUPT
    with pytest.raises(BadFileError):
        read_all(made.path)
    assert inspection.inspect(entry_of(made.path)).status is Status.CORRUPT


def test_names_without_keys_and_keys_through_a_tensor_are_shown_flat(tmp_path):
    dcp_writing.write_dcp(tmp_path / "step-1", {"a": torch.ones(2), "b": torch.zeros(1)}, ranks=1)
    metadata = metadata_of(tmp_path / "step-1")
    metadata.planner_data = {"a": ("a",), "b": ("a", "b")}
    rewrite(tmp_path / "step-1", metadata)
    assert {tensor.name for tensor in one.read(str(tmp_path / "step-1")).tensors} == {"a", "b"}


def test_another_tools_metadata_is_no_checkpoint(tmp_path):
    (tmp_path / ".metadata").write_text("version:\n  revision: flutter\n")
    assert catalog.entry(tmp_path) is None


def _values(metadata):
    one_of_all = next(each for each in metadata.state_dict_metadata.values() if not hasattr(each, "chunks"))
    metadata.state_dict_metadata = {str(number): one_of_all for number in range(200_000)}


def _chunks(metadata):
    described = metadata.state_dict_metadata["model.lm_head.weight"]
    described.chunks = [described.chunks[0]] * 600_000


def _long_paths(metadata):
    keys = ("x" * 100,) * 90
    info = metadata.storage_data[next(iter(metadata.storage_data))]
    index = type(next(iter(metadata.storage_data)))
    names = [str(number) for number in range(4_000)]
    one_of_all = next(each for each in metadata.state_dict_metadata.values() if not hasattr(each, "chunks"))
    metadata.state_dict_metadata = dict.fromkeys(names, one_of_all)
    metadata.storage_data = {index(name): info for name in names}
    metadata.planner_data = {name: (*keys, name) for name in names}


@pytest.mark.parametrize("change", [_values, _chunks, _long_paths])
def test_metadata_of_far_too_many_entries_is_refused_before_it_fills_the_memory(made, change):
    metadata = metadata_of(made.path)
    change(metadata)
    rewrite(made.path, metadata)
    with pytest.raises(ExcessError, match="refused as too large"):
        one.read(str(made.path))


def test_so_many_pieces_that_none_could_compare_them_are_refused(made, monkeypatch):
    monkeypatch.setattr(faults, "_MOST_COMPARED", 3)
    dcp_writing.write_dcp(made.path / "more", {"a": torch.ones(9)}, ranks=9)
    assert verified(made.path / "more").status is Status.UNVERIFIABLE
    metadata = metadata_of(made.path / "more")
    for chunk in metadata.state_dict_metadata["a"].chunks:
        chunk.sizes = torch.Size([9])
    rewrite(made.path / "more", metadata)
    assert verified(made.path / "more").status is Status.CORRUPT


def test_pieces_that_leave_a_hole_and_lie_over_each_other_are_noticed_though_they_count_up(made):
    metadata = metadata_of(made.path)
    index = next(one for one in metadata.storage_data if one.fqn == "model.lm_head.weight" and one.offset[0])
    info = metadata.storage_data.pop(index)
    metadata.storage_data[type(index)(index.fqn, torch.Size([2, 0]), index.index)] = info
    metadata.state_dict_metadata[index.fqn].chunks[1].offsets = torch.Size([2, 0])
    rewrite(made.path, metadata)
    assert verified(made.path).reason == "pieces of model.lm_head.weight lie over each other"
    with pytest.raises(BadFileError, match="lie over each other"):
        read_all(made.path)
