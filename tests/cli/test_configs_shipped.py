"""The files of `configs/`: each is read, those that train are run, and the reference says what is so."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from marlin_ckpt.arguments import (
    DefaultCheckpointerArguments,
    ImportedModuleArguments,
    SpiralArguments,
    TextArguments,
    TrainerArguments,
)
from marlin_ckpt.cli.main import main
from marlin_ckpt.config import read_config
from tests.support.folders import REPOSITORY, visible

CONFIGS = REPOSITORY / "configs"
NAMES = sorted(path.name for path in CONFIGS.glob("*.yaml"))
_KEY = re.compile(r"  (?P<key>[a-z_]+): (?P<value>.*?) +# (?P<comment>\S.*)")


@pytest.fixture
def workplace(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the texts that the files name, away from the source tree."""
    (tmp_path / "configs").mkdir()
    shutil.copy(repository / "configs" / "sonnets.txt", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def train(workplace: Path, capsys: pytest.CaptureFixture[str]):
    """Runs `train --json` on a shipped file and returns its report."""

    def run(name: str, *overrides: str) -> dict[str, Any]:
        options = [part for override in overrides for part in ("--set", override)]
        code = main(["train", "--config", str(CONFIGS / name), *options, "--json"])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out)

    return run


def test_the_files_that_the_pages_name_are_there():
    assert {"ci.yaml", "quickstart.yaml", "reference.yaml", "text.yaml"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_shipped_file_is_read(name, workplace):
    config = read_config(CONFIGS / name)
    assert isinstance(config.module, (TextArguments, SpiralArguments))
    assert config.trainer.epochs >= 1


@pytest.mark.parametrize("name", NAMES)
def test_each_shipped_file_saves_in_a_folder_of_the_working_directory(name, workplace):
    checkpointer = read_config(CONFIGS / name).checkpointer
    for directory in (checkpointer.save_dir, checkpointer.model_state_save_dir):
        assert directory is None or os.path.normpath(directory).split(os.sep)[0] == "checkpoints"


def test_the_file_for_ci_trains_and_leaves_its_checkpoints_and_nothing_else(train, workplace):
    report = train("ci.yaml")
    assert report["epochs"] == 3
    assert visible(workplace / "checkpoints" / "ci") == ["model_0.pt", "model_1.pt", "model_2.pt"]
    assert report["metrics"]["val_accuracy"] > 0.5
    assert sorted(os.listdir(workplace)) == ["checkpoints", "configs"]


def test_the_file_for_ci_replaces_what_an_earlier_job_left(train, workplace):
    stale = workplace / "checkpoints" / "ci" / "model_99.pt"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"from an earlier job")
    train("ci.yaml", "trainer.epochs=1")
    assert visible(stale.parent) == ["model_0.pt"]


def test_the_quickstart_trains_on_its_sonnets(train, workplace):
    report = train("quickstart.yaml", "trainer.epochs=2", "trainer.max_train_steps_per_epoch=4")
    assert report["global_steps"] == 8
    assert visible(workplace / "checkpoints" / "quickstart") == [
        "model_0.pt",
        "model_1.pt",
        "model_model_1.pt",
    ]
    assert report["metrics"].keys() == {"train_loss", "val_loss"}


def test_the_file_for_texts_trains_on_any_text_at_any_size(train, workplace):
    (workplace / "novel.txt").write_text("It was a dark and stormy night. " * 200)
    small = ("module.width=16", "module.depth=1", "trainer.max_train_steps_per_epoch=2", "trainer.epochs=1")
    report = train("text.yaml", "module.files=[novel.txt]", *small)
    assert report["global_steps"] == 1
    assert visible(workplace / "checkpoints" / "text") == ["model_0.pt", "model_model_0.pt"]


def _reference() -> str:
    return (CONFIGS / "reference.yaml").read_text(encoding="utf-8")


def _commented_module(text: str, name: str) -> str:
    """The commented-out section of a module, uncommented."""
    blocks = re.findall(r"^# module:\n(?:#   .*\n)+", text, re.MULTILINE)
    uncommented = [re.sub("^# ", "", block, flags=re.MULTILINE) for block in blocks]
    (block,) = (one for one in uncommented if re.search(rf"^  name: {name}\b", one, re.MULTILINE))
    return block


def _section(text: str, name: str) -> list[str]:
    """The lines of keys of a section."""
    found = re.search(rf"^{name}:\n((?:(?:  .*|\s*)\n)+)", text, re.MULTILINE)
    assert found, f"no section {name}"
    return [line for line in found[1].splitlines() if line.strip()]


_SECTIONS = [
    pytest.param("module", TextArguments, None, id="text"),
    pytest.param("module", SpiralArguments, "spiral", id="spiral"),
    pytest.param("module", ImportedModuleArguments, r"\w[\w.]*:\w+", id="imported"),
    pytest.param("trainer", TrainerArguments, None, id="trainer"),
    pytest.param("checkpointer", DefaultCheckpointerArguments, None, id="checkpointer"),
]
_FREE = {(TextArguments, "files"), (ImportedModuleArguments, "name")}  # without a default that could be used
_HERE = {"save_dir", "model_state_save_dir"}  # their defaults are made from the working directory


@pytest.mark.parametrize(("section", "kind", "commented"), _SECTIONS)
def test_the_reference_lists_every_key_in_the_dataclass_s_order_with_one_comment_each(
    section, kind, commented
):
    text = _reference() if commented is None else _commented_module(_reference(), commented)
    lines = [_KEY.fullmatch(line) for line in _section(text, section)]
    assert all(lines), _section(text, section)
    expected = [field.name for field in fields(kind) if field.metadata.get("yaml", True)]
    assert [line["key"] for line in lines] == expected


@pytest.mark.parametrize(("section", "kind", "commented"), _SECTIONS)
def test_the_reference_shows_the_default_of_every_key(section, kind, commented, workplace):
    path = CONFIGS / "reference.yaml"
    if commented is not None:
        path = workplace / "one.yaml"
        path.write_text(_commented_module(_reference(), commented), encoding="utf-8")
    built = getattr(read_config(path), section)
    assert type(built) is kind
    for field in fields(kind):
        if not field.metadata.get("yaml", True) or (kind, field.name) in _FREE:
            continue
        default = field.default if field.default is not MISSING else field.default_factory()
        shown = getattr(built, field.name)
        if field.name in _HERE:
            assert (shown, default) == ("checkpoints", str(workplace / "checkpoints"))
        else:
            assert (field.name, shown) == (field.name, default)
