"""The wheel works in an empty environment with each extra, and the gate runs with what the extras allow."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import tomllib
import venv
from pathlib import Path

import pytest
from build.env import DefaultIsolatedEnv
from packaging.requirements import Requirement

from tests.support.distributions import build_from, copy_of_the_tree
from tests.support.folders import REPOSITORY

EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# A loader that is stopped within an epoch, saved, and goes on.
_POSITION = """
import marlin_ckpt
from torchdata.stateful_dataloader import StatefulDataLoader

loader = StatefulDataLoader(range(10), batch_size=2)
batches = iter(loader)
next(batches), next(batches)
marlin_ckpt.save({"position": loader.state_dict()}, "position.pt")
again = StatefulDataLoader(range(10), batch_size=2)
again.load_state_dict(marlin_ckpt.load("position.pt")["position"])
assert [batch.tolist() for batch in again] == [[4, 5], [6, 7], [8, 9]]
"""
# Digests are what shares; where no file system here shares blocks, the file is written as ever.
_SHARED = """
import torch
from marlin_ckpt import CheckpointDirectory, load

state = {"backbone": torch.randn(1024, 1024), "adapter": torch.zeros(8)}
with CheckpointDirectory("shared", share_unchanged=True) as checkpoints:
    saves = [checkpoints.save(state, step) for step in range(3)]
assert all(torch.equal(load(one.path)["backbone"], state["backbone"]) for one in saves)
"""
# What is run in an environment with each extra, from a copy of the tree.
_USES = {
    "": [
        "marlin-ckpt train --config configs/ci.yaml --quiet",
        "marlin-ckpt list checkpoints/ci",
        "marlin-ckpt verify checkpoints/ci",
        "marlin-ckpt show checkpoints/ci/model_2.pt --stats *",
        "marlin-ckpt export checkpoints/ci/model_2.pt -o weights.safetensors",
        "marlin-ckpt prove-resume --config configs/ci.yaml",
        "python examples/own_loop.py LICENSE checkpoints/own",
        "torchrun --standalone --nproc-per-node 2 examples/with_fsdp2.py LICENSE checkpoints/fsdp2",
    ],
    "data": ["python position.py"],
    "share": ["python shared.py"],
    "s3": [
        "marlin-ckpt train --config configs/ci.yaml --quiet --set checkpointer.save_dir=s3://bucket/extras",
        "marlin-ckpt verify s3://bucket/extras",
    ],
    "lightning": ["python examples/with_lightning.py"],
    "transformers": ["python examples/with_transformers.py"],
    "accelerate": ["python examples/with_accelerate.py"],
    "ignite": ["python examples/with_ignite.py"],
    "docs": ["python -m sphinx --fail-on-warning --quiet docs site"],
    "bench": ["python -m benchmarks --quick save others --json figures.json --chart chart.svg"],
}


def test_each_extra_is_tried():
    assert _USES.keys() - {""} == EXTRAS.keys()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    with DefaultIsolatedEnv() as environment:
        return build_from(copy_of_the_tree(folder / "marlin-ckpt"), environment, folder).wheel


@pytest.mark.parametrize("extra", _USES)
def test_an_extra_allows_what_the_gate_has_and_in_the_campaign_works_from_the_wheel(
    extra, request, cases, tmp_path
):
    for one in map(Requirement, EXTRAS.get(extra, [])):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # the peers that are timed
            assert one.specifier.contains(importlib.metadata.version(one.name)), str(one)
    if cases(0, 1):
        wheel, environment = request.getfixturevalue("wheel"), tmp_path / "environment"
        _install(environment, f"{wheel}[{extra}]" if extra else str(wheel))
        if extra == "s3":
            request.getfixturevalue("s3")  # a server, which the commands find by their environment
        _use(environment, copy_of_the_tree(tmp_path / "tree"), _USES[extra])
        shutil.rmtree(environment)


def _install(environment: Path, what: str) -> None:
    venv.create(environment, with_pip=True)
    (torch,) = (
        one for one in (REPOSITORY / "constraints.txt").read_text().split() if one.startswith("torch==")
    )
    for one in (torch, what):  # with torch there, no newer one is fetched
        command = [
            environment / "bin/python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            one,
        ]
        subprocess.run(command, check=True)
    check = [environment / "bin/python", "-m", "pip", "check"]
    subprocess.run(check, check=True, capture_output=True)


def _use(environment: Path, tree: Path, commands: list[str]) -> None:
    shutil.rmtree(tree / "marlin_ckpt")  # what is used is the wheel's
    (tree / "position.py").write_text(_POSITION)
    (tree / "shared.py").write_text(_SHARED)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    inherited["PATH"] = f"{environment / 'bin'}{os.pathsep}{inherited['PATH']}"
    for command in commands:
        done = subprocess.run(
            command.split(),
            cwd=tree,
            env=inherited,
            check=False,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-4000:])
    where = "import marlin_ckpt, json; print(json.dumps(marlin_ckpt.__file__))"
    found = subprocess.run(
        ["python", "-c", where], cwd=tree, env=inherited, check=True, capture_output=True, text=True
    ).stdout
    assert Path(json.loads(found)).is_relative_to(environment)
