"""The next command that `verify`, `show` and others name for each kind of damage: typed, it works."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from tests.support import checkpoint_directories as directories
from tests.support.foreign import dcp_folders, trainer

_SALVAGE = r"`marlin-ckpt salvage {file} -o rescued{ext}` takes out what is intact"
_LATEST = "`marlin-ckpt latest {place}{options} --intact` names the newest that is intact"
_VERIFY = "`marlin-ckpt verify {place}` says which others are whole"
_NONE = "no other checkpoint is beside it: fetch it again from where it is whole"


def _ours(place: str, prefix: str = "model", ext: str = "pt") -> list[str]:
    arguments = DefaultCheckpointerArguments(
        save_dir=place, model_state_save_dir=None, file_prefix=prefix, file_ext=ext
    )
    saver = DefaultCheckpointer(arguments)
    state = Checkpoint({"w": torch.arange(1000.0)}, {"o": torch.ones(9)})
    return [str(Path(place) / Path(saver.save(state, index)).name) for index in range(2)]


def _cut(path: str, count: int = 300) -> str:
    Path(path).write_bytes(Path(path).read_bytes()[:-count])
    return path


def _flipped(path: str, at: int | None = None) -> str:
    data = bytearray(Path(path).read_bytes())
    start = data.index(torch.arange(1000.0).numpy().tobytes())
    data[start + 5 if at is None else at] ^= 4
    Path(path).write_bytes(data)
    return path


def _alone(name: str) -> str:
    shutil.copy(_ours("away")[1], name)
    shutil.rmtree("away")
    return _cut(name)


def _safetensors(place: str) -> str:
    Path(place).mkdir()
    for index in range(2):
        safetensors.torch.save_file({"w": torch.ones(99)}, f"{place}/model_{index}.safetensors")
    return _cut(f"{place}/model_1.safetensors", 9)


def _legacy(place: str) -> str:
    Path(place).mkdir()
    for index in range(2):
        torch.save({"w": torch.ones(99)}, f"{place}/model_{index}.pt", _use_new_zipfile_serialization=False)
    return _cut(f"{place}/model_1.pt", 9)


def _lightning(place: str) -> str:
    Path(place).mkdir()
    for step in (3, 6):
        torch.save({"w": torch.ones(99)}, f"{place}/epoch={step // 3}-step={step}.ckpt")
    return _cut(f"{place}/epoch=2-step=6.ckpt")


def _trainer(place: str) -> str:
    for step in (4, 6):
        path = trainer.make_trainer(Path(place), step=step).path
    (path / "optimizer.pt").unlink()
    return f"{place}/{path.name}"


def _folders(place: str) -> str:
    found = directories.CheckpointDirectory(place)
    for index in range(2):
        directories.fill_folder(found, f"model_{index}", index=index)
    Path(place, "model_1", "weights").unlink()
    return f"{place}/model_1"


def _dcp(place: str) -> str:
    for step in (1, 2):
        path = dcp_folders.make_torchtitan(Path(place), step=step).path
    next(path.glob("*.distcp")).unlink()
    return str(path)


KINDS: dict[str, tuple[Callable[[], str], str, str]] = {
    "a flipped bit": (lambda: _flipped(_ours("a")[1]), _SALVAGE, _LATEST),
    "a cut file": (lambda: _cut(_ours("a b")[1]), _SALVAGE, _LATEST),
    "flipped first bytes": (lambda: _flipped(_ours("a")[1], 1), _SALVAGE, _LATEST),
    "another prefix and extension": (
        lambda: _cut(_ours("a", "best of", "ckpt")[1]),
        _SALVAGE,
        _LATEST.replace("{options}", " --prefix 'best of' --ext ckpt"),
    ),
    "one file alone": (lambda: _alone("model_7.pt"), _SALVAGE, _NONE),
    "safetensors": (lambda: _safetensors("a"), "", _VERIFY),
    "legacy": (lambda: _legacy("a"), "", _VERIFY),
    "Lightning": (lambda: _lightning("a"), _SALVAGE, _LATEST),
    "Trainer": (lambda: _trainer("a"), "", _VERIFY),
    "a folder of ours": (lambda: _folders("a"), "", _LATEST),
    "DCP": (lambda: _dcp("a"), _SALVAGE.replace("{ext}", ".pt"), _VERIFY),
}  # fmt: skip


@pytest.fixture(params=KINDS)
def damaged(request, tmp_path, monkeypatch) -> tuple[str, list[str]]:
    """The path of a damaged checkpoint, and the hints that are expected."""
    monkeypatch.chdir(tmp_path)
    make, *hints = KINDS[request.param]
    path = make()
    facts = {"file": shlex.quote(path), "ext": Path(path).suffix, "options": ""}
    facts["place"] = shlex.quote(str(Path(path).parent))
    return path, [one.format(**facts) for one in hints if one]


def _commands(text: str) -> list[list[str]]:
    return [shlex.split(one)[1:] for one in re.findall("`(marlin-ckpt .*?)`", text)]


def test_verify_of_a_file_names_commands_that_work(run_main, damaged):
    path, hints = damaged
    code, out, err = run_main("verify", path)
    assert (code, out.split("  ")[1].strip()) == (3, path)
    assert err.splitlines()[1:] == [f"hint: {one}" for one in hints]
    for command in _commands(err):
        code, out, _ = run_main(*command)
        assert code == (3 if command[0] == "verify" else code)
        assert code in (0, 3)
        if command[0] == "latest":
            assert code == 0
            assert Path(out.strip()).exists()
            assert out.strip() != path


def test_the_document_of_verify_has_them_too(run_main, damaged):
    path, hints = damaged
    (found,) = json.loads(run_main("verify", path, "--json")[1])["files"]
    assert found["hint"] == "; ".join(hints)


def test_verify_of_the_directory_names_the_next_command_or_what_else_is_whole(run_main, damaged):
    path, hints = damaged
    place = str(Path(path).parent)
    code, _, err = run_main("verify", place)
    assert code == 3
    if place == ".":
        hints = [one.replace(path, f"./{path}") for one in hints]
    shown = err.splitlines()[1:]
    assert shown[:-1] == [f"hint: {one}" for one in hints[:-1]]
    if "verify" in hints[-1]:
        assert shown[-1].startswith("hint: whole, as far as can be known without checksums: a/")
    else:
        assert shown[-1] == f"hint: {hints[-1]}"
    assert "hint" not in run_main("verify", str(Path(path).parent), "--quiet")[2]


def test_show_and_what_reads_tensors_name_the_same_commands(run_main, damaged):
    path, hints = damaged
    code, out, err = run_main("show", path)
    if code == 0 and "MISSING" not in out:  # the structure is whole: a bit of the data is not
        code, _, err = run_main("export", path, "-o", "out.safetensors")
        assert code == 3
    assert err.splitlines()[-1] == f"hint: {'; '.join(hints)}"


def test_what_is_damaged_of_two_files_is_what_the_hint_is_about(run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole, bad = _ours("a")
    _flipped(bad)
    for command in (["diff", whole, bad], ["average", bad, whole, "-o", "out.pt"]):
        code, _, err = run_main(*command)
        assert code == 3
        assert f"hint: `marlin-ckpt salvage {bad} " in err


def test_of_many_damaged_files_a_few_are_spelt_out(run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("a", "b", "c"):
        for path in _ours(place):
            _cut(path)
    err = run_main("verify", "a", "b", "c")[2]
    assert err.count("hint: `marlin-ckpt salvage ") == 3
    assert err.count(f"hint: {_NONE}") == 1


def test_hostile_names_reach_no_terminal_by_a_hint(run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("\x1b[31m").mkdir()
    shutil.copy(_alone("x.pt"), "\x1b[31m/model_1.pt")
    for command in ("verify", "show"):
        err = run_main(command, "\x1b[31m/model_1.pt")[2]
        assert err.replace("\n", "").isprintable()
        assert "salvage" in err
