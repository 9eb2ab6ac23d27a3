"""Data starts at the alignment that a file says, and every reader finds it there."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils.serialization import config

from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.formats.torch.pickler import encode
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.formats.verification import verify
from marlin_ckpt.formats.zip import recovery, writer
from marlin_ckpt.formats.zip.planning import plan
from marlin_ckpt.formats.zip.reader import read_container
from marlin_ckpt.formats.zip.records import read_records
from marlin_ckpt.naming import Kind
from marlin_ckpt.operations.export import Wanted, export
from marlin_ckpt.operations.one import opened
from marlin_ckpt.operations.rescue.salvage import salvage
from marlin_ckpt.operations.weights_file import WeightsFile
from marlin_ckpt.storage.memory import MemoryTarget
from tests.support.sources import bytes_source

ALIGNMENTS = [64, 512, 4096, 65536]
ABOUT = Manifest(kind=Kind.CHECKPOINT, index=1, created="2026-11-01T00:00:00.000Z", run_id="a", save_number=1)
# Behind such a record, aligning the next one to 65,536 takes more than an extra field holds.
CROWDED = range(65473, 65477)


def file_of(sizes: list[int], alignment: int, about: Manifest | None = ABOUT) -> bytes:
    target = MemoryTarget()
    chance = random.Random(0)
    data = [(f"data/{key}", memoryview(chance.randbytes(size))) for key, size in enumerate(sizes)]
    writer.write_state(target, b"\x80\x02N.", b"little", data, about, alignment=alignment)
    return bytes(target.content())


SIZES = st.lists(st.one_of(st.integers(0, 300), st.integers(65430, 65540)), max_size=6)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@settings(max_examples=40)
@given(sizes=SIZES)
def test_a_file_has_its_data_where_the_plan_said_and_where_salvage_would_look(
    alignment: int, sizes: list[int]
) -> None:
    named = {f"data/{key}": size for key, size in enumerate(sizes)}
    planned = plan(b"\x80\x02N.", b"little", named, alignment=alignment)
    content = file_of(sizes, alignment)
    source = bytes_source(content)
    container = read_container(source)
    assert container.repacked == ""
    assert container.manifest is not None
    read_records(source, container)
    assert not any(start % alignment for start in container.data_offsets.values())
    assert planned.offsets == {name: container.data_offsets[f"archive/{name}"] for name in named}
    assert len(content) <= planned.size_bytes
    found = {one.record.name: one.start for one in recovery.from_manifest(container.manifest, "archive")}
    assert found.items() <= container.data_offsets.items()
    assert len(found) == len(container.records) - 1


def test_a_file_at_the_usual_alignment_is_to_the_byte_what_it_was_before_there_were_others() -> None:
    content = file_of([0, 1, 63, 64, 65, 20_000, 300_000], 64)
    assert (
        hashlib.sha256(content).hexdigest()
        == "191e21d5b07438f2734a33c6736c8010f563388a8f1a5f2a0017f8d27fa8c79d"
    )


@pytest.fixture(params=ALIGNMENTS)
def saved(request, tmp_path) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    base = torch.randn(40, 30)
    state = {
        "whole": base, "tied": base, "view": base[3:7, ::2], "empty": torch.empty(0, 3),
        **{f"crowded.{size}": torch.randint(0, 256, (size,), dtype=torch.uint8) for size in CROWDED},
        "step": torch.tensor(3.0), "half": torch.randn(70_000).half(),
    }  # fmt: skip
    encoded = encode(state)
    target = MemoryTarget()
    data = [(f"data/{key}", memory(one.data_ptr(), one.nbytes())) for key, one in encoded.storages.items()]
    writer.write_state(target, encoded.pickle, writer.BYTEORDER, data, ABOUT, alignment=request.param)
    path = tmp_path / "model_1.pt"
    path.write_bytes(target.content())
    return path, state


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("calculated", [False, True])
def test_torch_loads_a_file_of_any_alignment_and_finds_its_data_by_calculating(
    saved, monkeypatch, mmap, calculated
):
    path, state = saved
    monkeypatch.setenv("TORCH_SERIALIZATION_DEBUG", "1")  # compares what is calculated with what is read
    with config.patch("load.calculate_storage_offsets", calculated):
        found = torch.load(path, mmap=mmap, weights_only=True)
    assert found.keys() == state.keys()
    for name, one in state.items():
        assert torch.equal(found[name], one), name


def test_verify_and_export_read_a_file_of_any_alignment(saved, tmp_path):
    path, state = saved
    assert verify(str(path)).status is Status.INTACT
    output = tmp_path / "out.safetensors"
    with opened(str(path)) as file:
        export(file, WeightsFile(str(output)), Wanted())
    found = load_file(output)
    assert [*(state.keys() - found.keys())] in (["tied"], ["whole"])
    for name, one in found.items():
        assert torch.equal(one, state[name]), name


def test_all_is_salvaged_from_a_file_of_any_alignment_that_has_lost_its_directory_and_a_header(
    saved, tmp_path
):
    path, state = saved
    with open(path, "rb") as file:
        content = bytearray(file.read())
    record = read_container(bytes_source(bytes(content))).by_label["data/5"]
    content[record.header_offset : record.header_offset + 4] = bytes(4)
    path.write_bytes(content[:-22])
    assert verify(str(path)).status is Status.CORRUPT
    salvage(str(path), str(tmp_path / "out.pt"))
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    for name, one in state.items():
        assert torch.equal(found[name], one), name


@pytest.mark.parametrize("alignment", [4096, 65536])
def test_a_bit_that_flips_between_the_data_is_missed_nowhere(alignment: int) -> None:
    sizes = [CROWDED[0], 40, 5]
    whole = file_of(sizes, alignment)
    container = read_container(bytes_source(whole))
    inside: set[int] = set()
    for one in container.records:
        start = container.data_offsets[one.name]
        inside.update(range(start, start + one.size))
    places = [at for at in range(len(whole)) if at not in inside]
    end = container.data_offsets["archive/data/0"] + sizes[0] + 16  # of the descriptor
    gap = range(end, container.by_label["data/1"].header_offset)
    assert len(gap) == (64 if alignment == 65536 else 0)
    for at in [*places[:: 1 + len(places) // 300], *gap]:
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        assert is_refused(bytes(data)), at


def is_refused(data: bytes) -> bool:
    source = bytes_source(data)
    try:
        container = read_container(source)
        read_records(source, container)
    except CorruptCheckpointError:
        return True
    return container.repacked != ""


@settings(max_examples=60)
@given(
    said=st.sampled_from(
        [b"0", b"-1", b"64", b"65", b"4096", b"32768", b"65536", b"131072", b"", b"9" * 5000]
    ),
    sizes=SIZES,
    alignment=st.sampled_from([64, 4096]),
)
def test_a_file_that_says_another_alignment_than_it_has_is_corrupt(said, sizes, alignment):
    target = MemoryTarget()
    container = writer.ContainerWriter(target, alignment)
    for name, data in {**writer.leading(b"\x80\x02N.", b"little"), ".storage_alignment": said}.items():
        container.add(name, data)
    for key, size in enumerate(sizes):
        container.add(f"data/{key}", bytes(size))
    rows = [{"name": one.name, "size": one.size, "crc32": one.crc32} for one in container.records]
    container.add(".marlin/manifest.json", replace(ABOUT, records=rows).to_json())
    container.close()
    is_true = said == str(alignment).encode() or (
        alignment == 64 and said not in (b"4096", b"32768", b"65536")
    )
    assert is_refused(bytes(target.content())) is not is_true
