"""Tensors that view a part of a storage, or view it across, keep their values; damage is refused by name."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from marlin_ckpt.cli.main import main
from marlin_ckpt.formats.values.distribution import checked_distributions
from marlin_ckpt.operations import average, diff, export
from marlin_ckpt.operations.export import Wanted
from marlin_ckpt.operations.one import opened
from marlin_ckpt.operations.weights_file import WeightsFile

VIEWS = {
    "transposed": lambda base: base.t(),
    "slice": lambda base: base[1:4, 2:6],
    "rows from an offset": lambda base: base[3:],
    "one column": lambda base: base[:, 5],
    "every other": lambda base: base[::2, 1::3],
    "permuted": lambda base: base.reshape(2, 3, 8).permute(2, 0, 1)[1:],
    "one element": lambda base: base[4, 4],
}


def base_of(factor: float = 1) -> torch.Tensor:
    return torch.arange(48.0).reshape(6, 8) * factor


def save(path: Path, value: Any, kind: str) -> Path:
    torch.save({"w": value, "other": torch.ones(3)}, path, _use_new_zipfile_serialization=kind == "zip")
    return path


def load(path: str) -> torch.Tensor:
    state = load_file(path) if path.endswith(".safetensors") else torch.load(path)
    return state["w"]


def run(operation: Any, sources: list[Path], output: Path) -> torch.Tensor:
    target = WeightsFile(str(output))
    with opened(str(sources[0])) as one, opened(str(sources[-1])) as other:
        operation(one, target, Wanted()) if operation is export.export else operation(
            [one, other], target, Wanted()
        )
    return load(target.path)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("title", VIEWS)
def test_a_view_keeps_its_values_in_every_command(tmp_path, title, kind):
    view = VIEWS[title]
    a = save(tmp_path / "a.pt", view(base_of()), kind)
    b = save(tmp_path / "b.pt", view(base_of(3)), kind)
    for name in ("e.pt", "e.safetensors"):
        assert torch.equal(run(export.export, [a], tmp_path / name), view(base_of()))
    for name in ("m.pt", "m.safetensors"):
        assert torch.equal(run(average.average, [a, b], tmp_path / name), view(base_of(2)))
    with opened(str(a)) as one, opened(str(b)) as other:
        (found,) = checked_distributions(one, [one.contents.tensors[0]])
        differing = [each for each in diff.compare(one, other).tensors if each.distance]
    whole = view(base_of()).double()
    assert (found.statistics.minimum, found.statistics.maximum, found.mean) == (
        whole.min(),
        whole.max(),
        pytest.approx(whole.mean()),
    )
    assert [each.name for each in differing] == ["w"]
    assert differing[0].distance.maximum == 2 * float(whole.max())
    assert differing[0].distance.differing == int((whole != 0).sum())
    contiguous = save(tmp_path / "c.pt", view(base_of()).clone().contiguous(), "zip")
    with opened(str(a)) as one, opened(str(contiguous)) as other:
        assert diff.compare(one, other).is_same


@pytest.mark.parametrize("title", VIEWS)
@pytest.mark.parametrize("element", [0, 25, 47])
def test_damage_anywhere_in_the_storage_of_a_view_is_refused_by_name(tmp_path, capsys, title, element):
    # Also where the view itself does not look: what lies beside it was changed, and nobody knows how.
    a = save(tmp_path / "a.pt", VIEWS[title](base_of(1.5)), "zip")
    whole = save(tmp_path / "b.pt", VIEWS[title](base_of(1.5)), "zip")
    data = bytearray(a.read_bytes())
    start = data.index(struct.pack("<3f", 0, 1.5, 3))
    data[start + 4 * element + 1] ^= 1
    a.write_bytes(data)
    out = str(tmp_path / "o.pt")
    for command in (
        ["export", a, "-o", out], ["average", a, whole, "-o", out], ["average", whole, a, "-o", out],
        ["diff", a, whole], ["diff", whole, a], ["show", a, "--stats", "w"], ["verify", a],
    ):  # fmt: skip
        assert main([str(part) for part in command]) == 3, command
        ended = capsys.readouterr()
        assert "does not hold (tensor w)" in ended.err + ended.out
    assert not Path(out).exists()


def tail(whole: torch.Tensor) -> torch.Tensor:
    return whole[1:]


def legacy_file(
    path: Path, offset: int, size: int, storage: list[float], part: Callable[[torch.Tensor], Any] = tail
) -> Path:
    """A file as torch 0.3 wrote it, in which a storage is a part of another, from an offset on."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if isinstance(obj, torch.storage.TypedStorage):
                return "storage", torch.FloatStorage, "0", "cpu", len(storage), ("0-part", offset, size)
            return None

    saved = io.BytesIO()
    torch.save({}, saved, _use_new_zipfile_serialization=False)
    head = saved.getvalue()[: saved.getvalue().index(b"\x80\x02}q\x00.", 40)]
    state = io.BytesIO()
    Pickler(state, 2).dump({"w": part(torch.zeros(size))})
    data = struct.pack(f"<q{len(storage)}f", len(storage), *storage)
    path.write_bytes(head + state.getvalue() + pickle.dumps(["0"], 2) + data)
    return path


def test_a_legacy_storage_that_is_a_part_of_another_has_its_own_elements(tmp_path):
    path = legacy_file(tmp_path / "old.pth", 4, 5, [float(number) for number in range(12)])
    expected = torch.load(path)["w"]
    assert expected.tolist() == [5, 6, 7, 8]
    assert torch.equal(run(export.export, [path], tmp_path / "e.safetensors"), expected)
    assert torch.equal(run(average.average, [path, path], tmp_path / "m.pt"), expected)
    whole = tmp_path / "whole.pt"
    torch.save({"w": expected.clone()}, whole)
    with opened(str(path)) as one, opened(str(whole)) as other:
        assert diff.compare(one, other).is_same
        (found,) = checked_distributions(one, one.contents.tensors)
    assert (found.statistics.minimum, found.statistics.maximum) == (5, 8)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_legacy_storage_that_is_a_part_of_another_and_stands_for_itself_has_its_own_elements(tmp_path):
    numbers = [float(number) for number in range(12)]
    path = legacy_file(tmp_path / "old.pth", 4, 5, numbers, torch.Tensor.storage)
    with opened(str(path)) as one:
        (tensor,) = one.contents.tensors
        assert one.values(tensor).tolist() == [4, 5, 6, 7, 8]


def test_a_legacy_storage_whose_part_lies_beyond_its_end_is_refused(tmp_path, capsys):
    path = legacy_file(tmp_path / "old.pth", 9, 5, [float(number) for number in range(12)])
    for command in (
        ["export", path, "-o", tmp_path / "o.pt"],
        ["diff", path, path],
        ["show", path, "--stats", "*"],
    ):
        assert main([str(part) for part in command]) == 3
        assert "tensor w views elements outside of its storage" in capsys.readouterr().err
