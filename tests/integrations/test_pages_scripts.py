"""The scripts of the pages on clusters and on CI jobs, run by a shell."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import marlin_ckpt
from tests.support import warm_commands
from tests.support.folders import REPOSITORY
from tests.support.pages import blocks

START, SLURM, LOOP = blocks("clusters", "sh")


def _run(
    script: str, directory: Path, *arguments: str, path: Path, kept_open: tuple[int, ...] = ()
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{path}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "SLURM_JOB_ID": "7",
    }
    command = ["sh", "-c", script, "script", *arguments]
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False,
        pass_fds=kept_open,
    )  # fmt: skip


def _stand_in(directory: Path, name: str, codes: str = "0") -> None:
    """A command that notes how it was called, and ends with the next of some exit codes."""
    (directory / f"{name}.codes").write_text("\n".join([*codes.split(), ""]))
    command = directory / name
    command.write_text(
        "#!/bin/sh\n"
        f'cd "$(dirname "$0")" && echo "{name} $*" >> calls\n'
        f"code=$(head -n 1 {name}.codes); sed -i 1d {name}.codes; exit $code\n"
    )
    command.chmod(0o755)


@pytest.mark.parametrize(
    ("codes", "ended"),
    [("0", 0), ("1 5 137 0", 0), ("1 2", 2), ("5 3", 3), ("4", 4), ("143", 143), ("130", 130)],
)
def test_the_loop_starts_again_until_nothing_is_left_or_a_start_does_not_help(codes, ended, tmp_path):
    _stand_in(tmp_path, "marlin-ckpt", codes)
    assert "pause=30\n" in LOOP
    done = _run(LOOP.replace("pause=30\n", "pause=0\n"), tmp_path, path=tmp_path)
    assert done.returncode == ended
    assert (tmp_path / "calls").read_text() == START * len(codes.split())


@pytest.mark.parametrize("code", [0, 1, 143])
def test_the_slurm_job_is_queued_again_when_it_was_stopped_and_ends_as_the_training_did(code, tmp_path):
    _stand_in(tmp_path, "srun", str(code))
    _stand_in(tmp_path, "scontrol")
    done = _run(SLURM, tmp_path, path=tmp_path)
    assert done.returncode == code
    again = ["scontrol requeue 7"] if code == 143 else []
    assert (tmp_path / "calls").read_text().splitlines() == [f"srun {START.strip()}", *again]


def test_the_configuration_of_the_ci_job_is_the_file_that_the_page_names():
    assert blocks("ci", "yaml")[0] == (REPOSITORY / "configs" / "ci.yaml").read_text()


def test_the_ci_job_trains_verifies_and_prunes_and_ends_where_a_file_is_damaged(tmp_path):
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    job, look, same_or_not = blocks("ci", "sh")
    commands = tmp_path / "bin"
    commands.mkdir()
    run = functools.partial(_run, path=commands, kept_open=(warm_commands.make(commands),))
    done = run(job, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("trained, verified and pruned: checkpoints/ci/model_")
    names = ("train", "verify", "clean", "list")
    documents = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in names}
    assert [one["schema"] for one in documents.values()] == [f"marlin-ckpt/{name}/1" for name in names]
    kept = sorted(one["path"] for one in documents["list"]["checkpoints"])
    assert len(kept) in (2, 3)
    assert marlin_ckpt.verify(tmp_path / "model.safetensors").status is marlin_ckpt.Status.UNVERIFIABLE

    assert run(job, tmp_path).returncode == 0  # nothing is left to train
    look = f"set -eu\ndirectory=$1\n{look}"
    for directory in ("nothing-yet", "checkpoints/ci"):
        assert run(look, tmp_path, directory).returncode == 0
    older, newest = (tmp_path / path for path in kept[-2:])
    for one, code in ((older, 0), (newest, 0)):
        assert run(same_or_not, tmp_path, str(one), str(newest)).returncode == code
    damaged = bytearray(older.read_bytes())
    damaged[3000] ^= 1
    older.write_bytes(damaged)
    assert run(look, tmp_path, "checkpoints/ci").returncode == 3
    ended = run(job, tmp_path)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert run(same_or_not, tmp_path, str(older), str(newest)).returncode == 3


def test_the_slurm_job_on_many_ranks_says_to_each_which_it_is(tmp_path):
    (script,) = (one for one in blocks("many-ranks", "sh") if "SBATCH" in one)
    said = "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $*"
    for name, body in {
        "scontrol": "echo node1; echo node2",
        "srun": 'for SLURM_PROCID in 0 1; do export SLURM_PROCID SLURM_LOCALID=$SLURM_PROCID; "$@"; done',
        "marlin-ckpt": f'echo "{said}" >> {tmp_path}/calls; test $RANK = 0 || exit 143',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = _run(f"export SLURM_NTASKS=2 SLURM_JOB_NODELIST='node[1-2]'\n{script}", tmp_path, path=tmp_path)
    assert (done.returncode, done.stderr) == (143, "")
    command = "train --config run.yaml --resume"
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"0 0 2 node1 29500 {command}",
        f"1 1 2 node1 29500 {command}",
    ]
