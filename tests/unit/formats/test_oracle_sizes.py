"""States of very many tensors and of very large ones, and files that do not depend on the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import digests, oracle
from tests.support.folders import REPOSITORY
from tests.support.oracle import differences, record_sizes, write

QUICK_MIB, FULL_MIB = 160, 6 << 10
MOST_KIB = 64 << 10


def _run(repository: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(repository), **environment}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, env=environment, cwd=repository, capture_output=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_a_state_of_100_000_small_tensors_comes_back_as_torch_brings_it_back(cases):
    count = cases(1_500, 100_000)
    state = {f"layer.{number}.weight": torch.full((1 + number % 7,), number) for number in range(count)}
    state["shared"] = [tensor[:1] for tensor in state.values()][:: count // 100]
    assert differences(state) == []


@pytest.fixture(scope="module")
def large(cases, repository_root: Path, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("large") / "model_1.pt"
    script = str(repository_root / "tests" / "support" / "saving_memory.py")
    found = _run(repository_root, script, str(path), str(cases(QUICK_MIB, FULL_MIB)))
    found["records"] = record_sizes(str(path))
    path.unlink()
    return found


@pytest.fixture(scope="module")
def repository_root() -> Path:
    return REPOSITORY


def test_saving_takes_at_most_64_MiB_beyond_a_state_of_6_GB(large):
    assert large["ours_kib"] <= MOST_KIB


def test_a_state_of_6_GB_comes_back_its_views_shared_and_written_once(large):
    assert large["mapped"]
    assert large["loaded"]
    assert max(large["records"]) == (large["state_kib"] << 10) * 7 // 8
    assert len(large["records"]) == 9


def test_the_measure_of_memory_sees_a_save_that_copies_its_state(cases, large):
    if cases(0, 1):
        pytest.skip("there is no memory for a copy of 6 GB")
    assert large["copying_kib"] > 0.9 * large["state_kib"] > MOST_KIB


@pytest.mark.filterwarnings("ignore")
def test_another_process_gives_the_same_bytes_for_the_same_state(repository_root: Path):
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    theirs = _run(repository_root, "-m", "tests.support.digests", PYTHONHASHSEED=seed)
    ours = digests.main()
    assert ours.keys() == theirs.keys()
    differing = {name for name in ours if ours[name] != theirs[name]}
    # Python orders a set of strings anew in each process, and pickles it in that order; so does torch.save.
    assert differing == {"a set of strings"}


def test_another_manifest_gives_other_bytes(tmp_path: Path, monkeypatch):
    write(str(tmp_path / "one.pt"), [1])
    monkeypatch.setattr(oracle, "MANIFEST", replace(oracle.MANIFEST, save_number=2))
    write(str(tmp_path / "other.pt"), [1])
    assert (tmp_path / "one.pt").read_bytes() != (tmp_path / "other.pt").read_bytes()
