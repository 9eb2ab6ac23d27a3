"""The page on the file format says what the code writes and reads."""

from __future__ import annotations

import json
import pickletools
import re
import zipfile
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.torch.pickler import encode
from marlin_ckpt.formats.values.dtypes import DTYPES
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.formats.verification import verify
from marlin_ckpt.formats.zip.writer import ContainerWriter
from marlin_ckpt.storage.local.publishing import publish
from marlin_ckpt.storage.target import Target
from tests.support.tensors import TENSORS
from tools import worked_example


@pytest.fixture
def page() -> str:
    return worked_example.PAGE.read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    return re.split(r"^#+ ", page.partition(f"# {title}\n")[2], flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_the_worked_example_is_what_the_library_writes(page: str) -> None:
    assert worked_example.with_example(page) == page  # else: python -m tools.worked_example


def test_the_worked_example_accounts_for_each_byte_of_an_intact_file_that_torch_loads(tmp_path: Path) -> None:
    data = worked_example.checkpoint(tmp_path)
    assert b"".join(part.data for part in worked_example.parts(tmp_path)) == data
    path = tmp_path / "model_7.pt"
    assert verify(str(path)).status is Status.INTACT
    weight = torch.load(path)["module_interface_state"]["weight"]
    assert torch.equal(weight, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


def test_every_key_of_the_manifest_is_described(page: str) -> None:
    described = {row[0].strip("`"): row[3] for row in rows(section(page, "The manifest")) if len(row) == 5}
    assert set(described) == {field.name for field in fields(Manifest)}
    whole = dict.fromkeys(described, "") | {"metrics": {}, "versions": {}, "records": []}
    whole |= {"format_version": 1, "kind": "checkpoint", "index": 0, "save_number": 1}
    for name, required in described.items():
        values = {key: value for key, value in whole.items() if key != name}
        values = {key: value for key, value in values.items() if described[key] == "yes"}
        if required == "yes":
            with pytest.raises(ValueError, match="manifest"):
                Manifest.from_json(json.dumps(values).encode())
        else:
            assert Manifest.from_json(json.dumps(values).encode()).format_version == 1


def test_every_dtype_is_described_with_its_size_and_its_storage(page: str) -> None:
    described: dict[str, tuple[int, str]] = {}
    for names, sizes, storages, _ in rows(section(page, "Dtypes")):
        found = re.findall(r"\w+", names)
        all_sizes, all_storages = re.findall(r"\d+", sizes), re.findall(r"`(\w+)`", storages) or [""]
        described |= {
            name: (int(all_sizes[number % len(all_sizes)]), all_storages[number % len(all_storages)])
            for number, name in enumerate(found)
        }
        assert {len(all_sizes), len(all_storages)} <= {1, len(found)}
    undescribed = {"quint4x2", "quint2x4"}  # whose bytes are compared and not understood
    assert described.keys() == DTYPES.keys() | undescribed
    for name, known in DTYPES.items():
        assert described[name] == (known.item_bytes, known.storage), name


def test_a_record_that_a_later_version_adds_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "model_7.pt"
    worked_example.checkpoint(tmp_path)
    with zipfile.ZipFile(path) as old:
        records = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
    values = json.loads(records.pop(".marlin/manifest.json"))

    def fill(target: Target) -> None:
        writer = ContainerWriter(target)
        for name, data in {**records, ".marlin/statistics.json": b"{}"}.items():
            writer.add(name, data)
        values["records"] = [
            {"name": one.name, "size": one.size, "crc32": one.crc32} for one in writer.records
        ]
        writer.add(".marlin/manifest.json", json.dumps({**values, "statistics": True}).encode())
        writer.close()

    publish(path, fill, 10_000)
    assert verify(str(path)).status is Status.INTACT
    assert torch.load(path)["trainer_state"] is None


OPAQUE = {name for name in TENSORS if name.startswith(("jagged", "subclass", "uninit", "wrapper"))}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [name for name in TENSORS if name != "freed"])
def test_every_opcode_and_global_that_tensors_are_pickled_by_is_described(page: str, name: str) -> None:
    opcodes = set(re.findall(r"`([0-9a-f]{2})`", section(page, "Opcodes")))
    text = "".join(section(page, title) for title in ("Globals", "Tensors", "Dtypes"))
    described = set(re.findall(r"`(\w+)`", text))
    for opcode, value, _ in pickletools.genops(encode(TENSORS[name]()).pickle):
        assert f"{ord(opcode.code):02x}" in opcodes
        if opcode.name == "GLOBAL" and name not in OPAQUE and not value.startswith("tests."):
            assert value.split()[1] in described
