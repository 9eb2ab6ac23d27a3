"""Tensors that are put together from pieces, however they are cut."""

from __future__ import annotations

import pytest
import torch

from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.values import pieces
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.operations import one
from tests.support.dcp import flip, verified, write_pieces

SHAPES = [
    ((7, 3), (4, 1)),
    ((7, 3), (1, 3)),
    ((6, 5, 4), (2, 3, 2)),
    ((1, 9, 8), (1, 1, 4)),
    ((9,), (4,)),
    ((), ()),
    ((0, 4), (1, 1)),
    ((5, 0), (3, 1)),
]
DTYPES = [
    torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.float8_e4m3fn,
    torch.complex64, torch.uint8,
]  # fmt: skip


@pytest.fixture(params=["of 4 MiB", "of 16 bytes"])
def blocks(request, monkeypatch):
    if request.param == "of 16 bytes":
        monkeypatch.setattr(pieces, "_BLOCK_BYTES", 16)


def bits(folder) -> dict[str, bytes]:
    with one.opened(str(folder)) as checked:
        return {each.name: checked.bits(each).tobytes() for each in checked.contents.tensors}


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_cut_of_any_type_is_read_as_it_was(tmp_path, dtype):
    generator = torch.Generator().manual_seed(0)
    state = {
        f"t{number}": (torch.randn(shape, generator=generator).to(dtype), cuts)
        for number, (shape, cuts) in enumerate(SHAPES)
    }
    write_pieces(tmp_path / "step-1", state)
    assert verified(tmp_path / "step-1").status is Status.UNVERIFIABLE
    for name, found in bits(tmp_path / "step-1").items():
        whole = state[name][0]
        assert found == bytes(whole.reshape(-1).view(torch.uint8).tolist()), name


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("cuts", [(2, 1), (1, 2)])
def test_a_flipped_bit_in_a_piece_is_noticed_while_it_is_read(tmp_path, cuts):
    write_pieces(tmp_path / "step-1", {"a": (torch.zeros(8, 8), cuts)})
    path = tmp_path / "step-1" / "__1_0.distcp"
    flip(path, path.read_bytes().index(bytes(128)) + 64)
    with pytest.raises(CorruptCheckpointError, match="CRC"):
        bits(tmp_path / "step-1")
