"""Times what commands do with folders of other tools, beside the disk, files of as much, and the tool."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict_saver import save

from benchmarks.discovery import program, typer_alone
from benchmarks.files import durable, evict
from benchmarks.interleaved import Timing, medians
from benchmarks.report import Row, Setting
from benchmarks.states import size_text, training
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.operations import diff, export, one
from marlin_ckpt.operations.weights_file import WeightsFile

_SHARDS = 20
_STEPS_A_FILE = 0.2  # a Trainer keeps 200 folders where others keep 1,000 files
_LOGGED = 700  # rows of a Trainer's history: about 100 kB


def folders(setting: Setting) -> list[Row]:
    """`verify`, `diff` and `export` of a folder, `show` of many shards, and `list` of many folders."""
    tensors = _tensors(setting)
    size = size_text(sum(one.nbytes for one in tensors.values()))
    shards = [_shards(setting.directory / name, tensors) for name in ("a", "b")]
    files = [_file(setting.directory / f"{name}.safetensors", tensors) for name in ("a", "b")]
    rows = [*_verified(setting, shards[0], size), _compared(setting, shards, files, size)]
    rows.append(_exported(setting, tensors, size))
    del tensors
    rows.append(_shown(setting, shards[0], size))
    rows.append(_listed(setting))
    return rows


def _tensors(setting: Setting) -> dict[str, torch.Tensor]:
    """A module's state and that of its optimizer, as one flat dict."""
    return dict(_flat("", training(setting.sizes.medium).checkpoint().payload()))


def _flat(name: str, value: object) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value.detach().clone()
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), part)


def _shards(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    places = {
        name: f"model-{number % _SHARDS + 1:05d}-of-{_SHARDS:05d}.safetensors"
        for number, name in enumerate(tensors)
    }
    for file in sorted(set(places.values())):
        part = {name: tensors[name] for name, place in places.items() if place == file}
        safetensors.torch.save_file(part, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    durable(folder)
    return folder


def _file(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    durable(path)
    return path


def _verified(setting: Setting, folder: Path, size: str) -> list[Row]:
    dd = shutil.which("dd")
    if dd is None:
        setting.leave_out("verifying a folder cold is left out, since dd is not installed")
        return []
    commands = [[dd, f"if={path}", "of=/dev/null", "bs=8M", "status=none"] for path in folder.iterdir()]

    def ours() -> None:
        if (verdict := one.verify(folder)).status is not Status.UNVERIFIABLE:
            raise RuntimeError(f"what was just saved is {verdict.status}: {verdict.reason}")

    def theirs() -> None:
        for command in commands:
            subprocess.run(command, check=True)

    def before() -> None:
        for path in folder.iterdir():
            evict(path)

    timings = medians({"ours": ours, "other": theirs}, setting.rounds * 2, before)
    what = f"verify {size} in {_SHARDS} shards, cold"
    return [_row(what, "`dd bs=8M of=/dev/null`", timings, setting.rounds * 2, 1.15)]


def _row(what: str, against: str, timings: dict[str, Timing], rounds: int, bound: float | None) -> Row:
    times = timings["ours"].wall_s, timings["other"].wall_s
    return Row("folders", what, against, *times, rounds, bound)


def _compared(setting: Setting, shards: list[Path], files: list[Path], size: str) -> Row:
    def compared(before: Path, after: Path) -> None:
        with one.opened(str(before)) as a, one.opened(str(after)) as b:
            if not diff.compare(a, b).is_same:
                raise RuntimeError("two saves of one state differ")

    calls = {"ours": lambda: compared(*shards), "other": lambda: compared(*files)}
    timings = medians(calls, setting.rounds)
    what = f"diff of two folders of {size}, warm"
    return _row(what, "diff of two files", timings, setting.rounds, 1.15)


def _exported(setting: Setting, tensors: dict[str, torch.Tensor], size: str) -> Row:
    folder, target = setting.directory / "sharded", setting.directory / "weights.pt"
    save(dict(tensors), checkpoint_id=str(folder), no_dist=True)
    durable(folder)

    def ours() -> None:
        with one.opened(str(folder)) as checked:
            export.export(checked, WeightsFile(str(target)), export.Wanted())

    def theirs() -> None:
        dcp_to_torch_save(str(folder), str(target))
        durable(target)

    calls = {"ours": ours, "other": theirs}
    timings = medians(calls, setting.rounds, lambda: target.unlink(missing_ok=True))
    what = f"export of {size} by DCP, warm, durable"
    return _row(what, "`dcp_to_torch_save`, and fsync", timings, setting.rounds, 0.5)


def _shown(setting: Setting, folder: Path, size: str) -> Row:
    calls = {"ours": program("show", folder), "other": typer_alone(folder)}
    timings = medians(calls, setting.rounds * 2)
    what = f"`marlin-ckpt show` of {size} in {_SHARDS} shards"
    return _row(what, "an empty Typer program", timings, setting.rounds * 2, None)


def _listed(setting: Setting) -> Row:
    run = setting.directory / "run"
    steps = int(setting.sizes.few_files * _STEPS_A_FILE)
    for step in range(1, steps + 1):
        _trainer(run / f"checkpoint-{step}", step)
    calls = {"ours": program("list", run), "other": typer_alone(run)}
    timings = medians(calls, setting.rounds * 2)
    what = f"`marlin-ckpt list` of {steps} folders of a Trainer"
    return _row(what, "an empty Typer program", timings, setting.rounds * 2, None)


def _trainer(folder: Path, step: int) -> None:
    """A folder as the Trainer of Transformers leaves it, with tiny tensors and a long history."""
    folder.mkdir(parents=True)
    safetensors.torch.save_file({"weight": torch.ones(4)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(4)}, folder / name)
    history = [
        {"epoch": 0.1, "grad_norm": 0.5678, "learning_rate": 0.0001, "loss": 1.2345, "step": row}
        for row in range(step, step + _LOGGED)
    ]
    state = {"global_step": step, "log_history": history}
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")
