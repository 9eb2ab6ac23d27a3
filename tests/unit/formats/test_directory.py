"""The structures of a zip: whoever wrote them, they are found where they are, and damage to them is seen."""

from __future__ import annotations

import functools
import io
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.serialization import config

from marlin_ckpt.errors import BadFileError, CorruptCheckpointError
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.formats.verification import verify
from marlin_ckpt.formats.zip import structures
from marlin_ckpt.formats.zip.container import Container
from marlin_ckpt.formats.zip.reader import read_container
from marlin_ckpt.formats.zip.records import read_records
from marlin_ckpt.formats.zip.structures import Record
from tests.support.sources import SparseSource, bytes_source

# Where the directory of a file may start so that the offset in its end record looks like a signature.
LOOKS_LIKE_AN_END = int.from_bytes(structures.END_SIGNATURE, "little")
LOOKS_LIKE_A_LOCATOR = int.from_bytes(structures.END64_LOCATOR_SIGNATURE, "little")
BORDERS = [0, 1, 63, 64, 65, 2**32 - 2, 2**32 - 1, 2**32, 2**33]


def laid_out(sizes: list[int]) -> tuple[SparseSource, list[Record]]:
    """A container of records of these lengths, as the writer lays them out, without their data."""
    pieces: dict[int, bytes] = {}
    records: list[Record] = []
    at = 0
    for number, size in enumerate(sizes):
        name = "archive/data.pkl" if not number else f"archive/data/{number}"
        record = Record(name, size, 7 if size else 0, at)
        pieces[at] = header = structures.local_header(name, size, at)
        at += len(header) + size
        pieces[at] = descriptor = structures.descriptor(record)
        at += len(descriptor)
        records.append(record)
    directory = b"".join(map(structures.central_entry, records))
    pieces[at] = directory + structures.end_records(len(records), len(directory), at)
    return SparseSource(pieces), records


def starting_at(offset: int) -> SparseSource:
    """A container whose directory starts at an offset."""
    small, _ = laid_out([9, 1])
    source, _ = laid_out([9, 1 + offset - max(small.pieces)])
    assert max(source.pieces) == offset
    return source


@given(st.lists(st.sampled_from(BORDERS) | st.integers(0, 2**34), min_size=1, max_size=8))
def test_what_is_laid_out_is_read_again_whatever_the_sizes(sizes: list[int]) -> None:
    source, records = laid_out(sizes)
    container = read_container(source)
    assert list(container.records) == records
    assert container.repacked == ""
    assert all(container.data_offsets[one.name] % 64 == 0 for one in records)


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


class _Sparse:
    """Takes what `torch.save` writes and skips."""

    def __init__(self) -> None:
        self.pieces: dict[int, bytes] = {}
        self._at = 0

    def write(self, data: bytes) -> int:
        self.pieces[self._at] = bytes(data)
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (self._at if whence else 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        """Nothing is kept back."""


def large_by_torch() -> SparseSource:
    """The headers, descriptors and the directory of a `torch.save` of more than 4 GiB."""
    file = _Sparse()
    with torch.serialization.skip_data():
        torch.save([torch.empty(size, dtype=torch.uint8) for size in (1, 2**32 + 5, 7)], file)
    return SparseSource(file.pieces)


def test_the_headers_of_a_file_by_torch_of_more_than_4_gib_are_known_to_the_byte() -> None:
    source = large_by_torch()
    assert read_container(source).repacked == ""
    unseen = []
    for at, whole in list(source.pieces.items()):
        is_versions = whole.startswith(structures.END64_SIGNATURE)
        for place in range(0, len(whole), 1 if len(whole) < 100 else 7):
            data = bytearray(whole)
            data[place] ^= 4
            source.pieces[at] = bytes(data)
            if is_data(source, at) or (is_versions and 12 <= place < 16):
                continue
            if not is_refused(source):
                unseen.append((at, place))
        source.pieces[at] = whole
    assert unseen == []


def is_data(source: SparseSource, at: int) -> bool:
    """Whether the piece is a record's data, which `read_container` leaves to its CRC."""
    return source.pieces[at][:2] not in (b"PK", b"FB", b"ar", b"\x01\x00") and len(source.pieces[at]) != 16


def is_refused(source: SparseSource) -> bool:
    try:
        return read_container(source).repacked != ""
    except BadFileError:
        return True


def has_other_data(source: SparseSource) -> bool:
    try:
        read_records(source, read_container(source))
    except CorruptCheckpointError:
        return True
    return False


def metadata(data: bytes) -> list[int]:
    """The offsets of all bytes that are no record's data."""
    container = read_container(bytes_source(data))
    inside = {
        at
        for one in container.records
        for at in range(container.data_offsets[one.name], container.data_offsets[one.name] + one.size)
    }
    return [at for at in range(len(data)) if at not in inside]


@pytest.mark.parametrize("alignment", [1, 16, 64, 128, 256, 4096])
@pytest.mark.parametrize("count", [1, 8])
def test_a_file_by_torch_is_intact_at_any_alignment_and_a_bit_in_its_headers_is_missed_nowhere(
    alignment: int, count: int
) -> None:
    with config.patch("save.storage_alignment", alignment):
        whole = saved([torch.empty(0), *(torch.full((40,), float(number)) for number in range(count))])
    assert read_container(bytes_source(whole)).repacked == ""
    versions = whole.rindex(structures.END64_SIGNATURE) + 12
    unseen = []
    places = metadata(whole)
    for at in places[:: 1 + len(places) // 600]:
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        source = bytes_source(bytes(data))
        if at not in range(versions, versions + 4) and not (is_refused(source) or has_other_data(source)):
            unseen.append(at)
    assert unseen == []


def by_writer_of_torch(alignment: int) -> bytes:
    """A file by torch's writer of zips but not by `torch.save`: no record tells the alignment."""
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer, True, alignment)
    pickle = zipfile.ZipFile(io.BytesIO(saved({"w": torch.ones(3)}))).read("archive/data.pkl")
    writer.write_record("data.pkl", pickle, len(pickle))
    writer.write_record("data/0", torch.ones(3).numpy().tobytes(), 12)
    writer.write_end_of_file()
    return buffer.getvalue()


@pytest.mark.parametrize("alignment", [64, 128])
def test_a_file_that_tells_no_alignment_is_intact(tmp_path: Path, alignment: int) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(by_writer_of_torch(alignment))
    assert verify(str(path)).status is Status.INTACT


def test_a_torchscript_archive_is_sound_and_said_to_be_one() -> None:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(3, 4)), buffer)
    assert read_container(bytes_source(buffer.getvalue())).repacked.endswith("it is a TorchScript archive")


@pytest.mark.parametrize("offset", [LOOKS_LIKE_AN_END, LOOKS_LIKE_A_LOCATOR])
def test_a_directory_whose_offset_looks_like_a_signature_is_found(offset: int) -> None:
    assert len(read_container(starting_at(offset)).records) == 2


def zipped(name: str = "archive/version", comment: bytes = b"", extra: bytes = b"") -> bytes:
    """A checkpoint that Python's zipfile packs, with a comment and a last record of this name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        last = zipfile.ZipInfo(name)
        last.extra = extra
        archive.writestr(last, b"3\n")
        archive.comment = comment
    return buffer.getvalue()


def locator_in_the_last_entry() -> bytes:
    filler = structures.END64_LOCATOR.pack(structures.END64_LOCATOR_SIGNATURE, 0, 5, 1)
    return zipped(extra=struct.pack("<HH", 0x5555, len(filler)) + filler)


@pytest.mark.parametrize(
    "data",
    [
        zipped(),
        zipped(comment=b"made at home"),
        zipped(comment=structures.END_SIGNATURE + b" is how it ends"),
        zipped(comment=b"ends with " + structures.END_SIGNATURE),
        zipped(comment=b"c" * 65_535),
        locator_in_the_last_entry(),
    ],
    ids=["none", "text", "a signature in front", "a signature behind", "the longest", "a locator"],
)
def test_bytes_that_look_like_a_signature_do_not_hide_the_end(data: bytes) -> None:
    assert {one.name for one in read_container(bytes_source(data)).records} == {
        "archive/data.pkl",
        "archive/version",
    }


@pytest.mark.parametrize("read", [read_container, functools.partial(read_container, every_header=False)])
def test_a_file_that_another_process_cuts_short_meanwhile_is_truncated_and_not_corrupt_otherwise(
    read,
) -> None:
    whole = saved({"w": torch.ones(200)})
    messages = set()
    for size in range(70, len(whole)):
        source = SparseSource({0: whole[:size]}, len(whole))
        try:
            assert isinstance(read(source), Container)
        except CorruptCheckpointError as error:
            messages.add(str(error).partition(":")[0])
    assert messages == {"truncated while it was read"}
