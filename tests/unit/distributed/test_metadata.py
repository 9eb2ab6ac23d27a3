"""`.metadata` is read without running what it names, and its classes stay as they were."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from marlin_ckpt.distributed.metadata import from_bytes, to_bytes
from marlin_ckpt.errors import BadFileError, UnsafeCheckpointError


def _example(**about) -> Metadata:
    zero, shape = torch.Size([0, 0]), torch.Size([2, 3])
    tensor = TensorStorageMetadata(
        TensorProperties(torch.bfloat16), shape, [ChunkStorageMetadata(zero, shape)]
    )
    places = {MetadataIndex("w", zero): filesystem._StorageInfo("__0_0.distcp", 3, 4)}
    return Metadata({"w": tensor, "v": BytesStorageMetadata()}, {"w": ("w",)}, places, **about)


@pytest.mark.parametrize("about", [{}, {"storage_meta": StorageMeta("x", "y"), "version": "1.0.0"}])
def test_metadata_comes_back_as_it_was(about):
    found = from_bytes(to_bytes(_example(**about)), "x")

    assert found == _example(**about)
    assert to_bytes(found) == to_bytes(_example(**about))


class _Calls:
    def __init__(self, *what) -> None:
        self.what = what

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize(
    "what", [(print, ("x",)), (eval, ("1",)), (torch.load, ("x",)), (getattr, (torch.Size, "mro"))]
)
def test_what_no_metadata_names_is_refused(what):
    for whole in (_Calls(*what), _example(version=_Calls(*what))):
        with pytest.raises(UnsafeCheckpointError):
            from_bytes(pickle.dumps(whole), "x")


def test_a_pickle_that_sets_attributes_of_a_class_is_refused_and_undone():
    before = dict(vars(MetadataIndex))
    data = (
        b"\x80\x02c"
        + metadata.__name__.encode()
        + b"\nMetadataIndex\nN}(X\x08\x00\x00\x00__hash__NX\x01\x00\x00\x00zNu\x86b."
    )

    with pytest.raises(BadFileError):
        from_bytes(data, "x")

    assert dict(vars(MetadataIndex)) == before


@pytest.mark.parametrize("data", [b"", b"\x80\x02N.", b"garbage", pickle.dumps(Metadata({}))])
def test_what_is_no_metadata_is_a_bad_file(data):
    with pytest.raises(BadFileError):
        from_bytes(data, "x")


def test_damage_is_a_bad_file_or_reads():
    whole = to_bytes(_example())
    for at in range(len(whole)):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            try:
                from_bytes(data, "x")
            except BadFileError:
                continue
