"""TorchScript archives are shown and exported by the names of their state; the code in them is not run."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import marlin_ckpt
from marlin_ckpt import NotACheckpointError
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory import catalog
from marlin_ckpt.formats.content.contents import NodeKind
from marlin_ckpt.formats.content.payload import other_content
from tests.support.contents import contents

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:.*torch.jit.*", "ignore::UserWarning"
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.body[2].weight
        self.register_buffer("scale", torch.ones(5))
        self.anchors = torch.ones(2)
        self.table: dict[str, torch.Tensor] = {"a": torch.ones(3)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shift = torch.tensor([1.0, 2.0, 3.0])
        return self.tied(self.body(x)) + shift + self.table["a"] + self.scale[0] + self.anchors[0]


def scripted(path: Path) -> torch.jit.ScriptModule:
    made = torch.jit.script(Net().eval())
    torch.jit.save(made, str(path))
    return made


@pytest.mark.parametrize("how", ["script", "trace"])
def test_the_weights_come_out_as_the_state_dict_of_the_loaded_archive(tmp_path, how):
    module = Net().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.jit.script(module) if how == "script" else torch.jit.trace(module, torch.ones(2, 2))
    torch.jit.save(made, str(tmp_path / "a.pt"))
    assert main(["export", str(tmp_path / "a.pt"), "-o", str(tmp_path / "o.pt")]) == 0
    found, state = torch.load(tmp_path / "o.pt"), torch.jit.load(str(tmp_path / "a.pt")).state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_an_archive_is_shown_with_its_tensors_and_what_no_state_has(tmp_path, capsys):
    made = scripted(tmp_path / "a.pt")
    found = contents(tmp_path / "a.pt")
    assert (found.root.kind, found.is_torch_script) == (NodeKind.MODULE, True)
    assert found.root.label.endswith(".Net")
    assert {one.name for one in found.tensors if one.in_state} == {*made.state_dict()}
    assert {one.name for one in found.tensors if not one.in_state} == {"anchors", "table.a"}
    assert not any(name.startswith("__torch__") for name in found.imports)
    assert main(["show", str(tmp_path / "a.pt")]) == 0
    text = capsys.readouterr().out
    assert "a TorchScript archive" in text
    assert "torch.jit.load" in text
    assert "UNSAFE" not in text
    assert main(["show", str(tmp_path / "a.pt"), "--json"]) == 0
    assert "torch.jit.load" in json.loads(capsys.readouterr().out)["allow_list"]


def test_without_the_text_of_its_classes_every_tensor_of_a_module_counts(tmp_path):
    made = scripted(tmp_path / "a.pt")
    buffer = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(buffer, "w") as new:
        for one in old.infolist():
            if "/code/" not in one.filename:
                new.writestr(one, old.read(one))
    (tmp_path / "a.pt").write_bytes(buffer.getvalue())
    names = {one.name for one in contents(tmp_path / "a.pt").tensors if one.in_state}
    assert names == {*made.state_dict(), "anchors", "table.a"}


def test_an_archive_is_still_no_checkpoint_to_load(tmp_path):
    scripted(tmp_path / "model_1.pt")
    with pytest.raises(NotACheckpointError, match="a TorchScript archive") as raised:
        marlin_ckpt.load(tmp_path / "model_1.pt")
    assert "torch.jit.load" in raised.value.hint
    (entry,) = catalog.find(str(tmp_path))
    assert other_content(entry) == "a TorchScript archive"
