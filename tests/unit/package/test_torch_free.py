"""Every command but `train` runs without torch in the process, and `latest` without most else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import marlin_ckpt
from tests.support import sharded_folders

# None in sys.modules makes an import of that name fail, wherever it stands.
_WITHOUT = """
import sys
for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None
from marlin_ckpt.cli.main import main
sys.exit(main())
"""
# As that, with one command after the other; the last line tells their exit codes.
_EACH_WITHOUT = """
import json, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
from marlin_ckpt.cli.main import main
print(json.dumps([main(arguments) for arguments in json.loads(sys.argv[2])]))
"""


@pytest.fixture
def without(repository):
    """Runs the command in a process in which some packages cannot be imported."""

    def run(packages: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _WITHOUT, packages, *arguments],
            env={**os.environ, "PYTHONPATH": os.fspath(repository), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


@pytest.fixture
def each_without(repository):
    """Runs several commands in one such process; gives their exit codes, and what they said on stderr."""

    def run(packages: str, commands: list[list[str]]) -> tuple[list[int], str]:
        ended = subprocess.run(
            [sys.executable, "-c", _EACH_WITHOUT, packages, json.dumps(commands)],
            env={**os.environ, "PYTHONPATH": os.fspath(repository)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout.splitlines()[-1]), ended.stderr

    return run


@pytest.fixture
def directory(make_checkpointer, make_checkpoint, tmp_path) -> Path:
    """Checkpoints of ours and of others."""
    checkpointer = make_checkpointer()
    checkpointer.save(make_checkpoint(loss=0.5), 1)
    checkpointer.save_model({"weight": torch.ones(2)}, 1)
    torch.save({"epoch": 1}, tmp_path / "checkpoints" / "other_2.pt")
    legacy = tmp_path / "checkpoints" / "legacy_3.pt"
    torch.save({"epoch": 1}, legacy, _use_new_zipfile_serialization=False)
    return tmp_path / "checkpoints"


def test_list_runs_without_torch(without, directory):
    ended = without("torch", "list", directory, "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    listed = json.loads(ended.stdout)["checkpoints"]
    assert [(one["index"], one["kind"], one["complete"], one["metrics"]) for one in listed] == [
        (1, "checkpoint", True, {"loss": 0.5}),
        (1, "model", True, {}),
        (2, "checkpoint", True, None),
        (3, "checkpoint", None, None),
    ]
    table = without("torch", "list", directory, "--recursive", "--quiet")
    assert (table.returncode, len(table.stdout.splitlines()), table.stderr) == (0, 5, "")


def test_show_runs_without_torch_and_without_numpy_but_for_figures(without, each_without, directory):
    commands = [
        ["show", str(directory / name), *options]
        for name in ("model_1.pt", "other_2.pt", "legacy_3.pt")
        for options in ([], ["--json"], ["--tensors", "*"], ["--depth", "3"])
    ]
    codes, err = each_without("torch,numpy,rich,yaml", commands)
    assert codes == [0] * len(commands), err
    assert "Traceback" not in err
    ended = without("torch", "show", directory / "model_1.pt", "--stats", "*weight", "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    (figures,) = json.loads(ended.stdout)["stats"]
    assert (figures["min"], figures["max"], sum(figures["histogram"])) == (1, 1, 64)


def test_a_sharded_checkpoint_is_looked_at_converted_and_rescued_without_torch(each_without, tmp_path):
    folder = str(sharded_folders.write(tmp_path / "model_3.dcp", index=3))
    file, again, rescued = (str(tmp_path / name) for name in ("a.pt", "a.dcp", "b.pt"))
    commands = [
        ["latest", str(tmp_path)], ["list", str(tmp_path)], ["show", folder], ["verify", folder],
        ["export", folder, "-o", file, "--state", "all"], ["export", file, "-o", again, "--state", "all"],
        ["diff", folder, again], ["salvage", folder, "-o", rescued],
    ]  # fmt: skip
    codes, err = each_without("torch", commands)
    assert codes == [0] * len(commands), err


def test_clean_runs_without_torch(without, directory):
    assert without("torch", "clean", directory, "--dry-run").returncode == 0
    ended = without("torch", "clean", directory, "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(json.loads(ended.stdout)["removed"]) == 4
    assert os.listdir(directory) == []


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["plain", "json"])
def test_latest_runs_with_neither_torch_nor_rich_nor_yaml_nor_isal(without, directory, options):
    absent = "torch,rich,yaml,isal,numpy" + ("" if options else ",json")
    ended = without(absent, "latest", directory, *options)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"{directory / 'model_1.pt'}" in ended.stdout


ENDS = [
    (["latest", "/nonexistent"], 4),
    (["list", "/nonexistent"], 4),
    (["log", "/nonexistent"], 4),
    (["list"], 2),
    (["--version"], 0),
    ([], 0),
    (["--help"], 0),
    (["train", "--help"], 0),
    (["train", "--config", "/nonexistent"], 2),
    (["--show-completion", "bash"], 0),
    (["init", "-"], 0),
    (["config", "schema"], 0),
    (["config", "schema", "--document", "list"], 0),
]


def test_help_and_errors_need_no_torch(each_without):
    codes, err = each_without("torch", [arguments for arguments, _ in ENDS])
    assert codes == [code for _, code in ENDS], err
    assert "Traceback" not in err
    assert "ModuleNotFoundError" not in err


def test_env_says_the_versions_of_torch_and_numpy_and_imports_neither(without, tmp_path):
    ended = without("torch,numpy,rich,yaml,isal,safetensors", "env", tmp_path, "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["packages"]["torch"] == torch.__version__


def test_a_store_without_boto3_is_an_error_that_says_what_to_install(without):
    ended = without("boto3", "list", "s3://bucket/run")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines() == [
        "error: object storage needs boto3, and there is no module boto3",
        "hint: pip install 'marlin-ckpt[s3]'",
    ]


def test_completion_needs_no_torch(without):
    request = {"_MARLIN_CKPT_COMPLETE": "complete_bash", "COMP_WORDS": "marlin-ckpt cl", "COMP_CWORD": "1"}
    ended = without("torch", **request)
    assert (ended.returncode, ended.stdout.split()) == (0, ["clean"])


def test_a_wrong_configuration_is_told_without_torch(without, repository):
    ended = without(
        "torch", "train", "--config", repository / "configs/ci.yaml", "--set", "checkpointer.period=0"
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: --set checkpointer.period: ")


ERRORS = [name for name in marlin_ckpt.__all__ if name.endswith("Error")]
# The folders whose modules may import torch, and the views of what these report.
_OF_TORCH = (
    "integrations.",
    "training.",
    "checkpointer.",
    "saving.",
    "loading.",
    "distributed.",
    "formats.torch.",
    "cli.views.proof",
    "cli.views.progress",
)


def torch_free_modules(repository: Path) -> list[str]:
    files = sorted((repository / "marlin_ckpt").rglob("*.py"))
    names = [".".join(file.relative_to(repository).with_suffix("").parts) for file in files]
    folders = tuple(f"marlin_ckpt.{name}" for name in _OF_TORCH)
    return [name for name in names if not name.endswith("__main__") and not name.startswith(folders)]


def run_python(script: str, repository: Path) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.fspath(repository)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_every_module_outside_the_folders_of_torch_imports_without_it(repository):
    imports = "\n".join(f"import {name}" for name in torch_free_modules(repository))
    assert (
        run_python(f"import sys\nsys.modules['torch'] = None\n{imports}\nprint('all')", repository) == "all\n"
    )


def test_importing_the_package_imports_nothing_of_others(repository):
    script = """
import sys
before = set(sys.modules)
import marlin_ckpt
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names)))
"""
    assert run_python(script, repository) == "['marlin_ckpt']\n"


def test_the_plain_names_of_the_package_need_no_torch(repository):
    names = ["Checkpoint", "DefaultCheckpointerArguments", "get_latest_file", *ERRORS]
    script = f"""
import sys
sys.modules["torch"] = None
import marlin_ckpt
print(*(getattr(marlin_ckpt, name).__name__ for name in {names}))
"""
    assert run_python(script, repository).split() == names


def test_diff_export_and_average_run_without_torch(without, directory, tmp_path):
    files = [directory / "model_1.pt", directory / "model_model_1.pt"]
    assert without("torch", "diff", files[0], files[0]).returncode == 0
    ended = without("torch", "diff", *files, "--json")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert json.loads(ended.stdout)["states"] == ["module_interface_state", None]
    for name in ("weights.safetensors", "weights.pt"):
        assert without("torch", "export", files[0], "-o", tmp_path / name, "--dtype", "bf16").returncode == 0
        averaged = without("torch", "average", files[0], files[0], "-o", tmp_path / f"averaged_{name}")
        assert (averaged.returncode, averaged.stdout) == (0, "")
    assert torch.load(tmp_path / "weights.pt", weights_only=True)["weight"].dtype is torch.bfloat16


@pytest.mark.parametrize("command", ["list", "verify", "clean"])
def test_what_looks_at_no_value_needs_no_numpy(without, directory, command):
    assert without("torch,numpy,safetensors", command, directory).returncode == 0
