"""`diff`, `export` and `average` with files made to attack whoever reads them, and with full disks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from marlin_ckpt.cli.main import main
from tests.adversity import test_disk
from tests.adversity.test_disk import contents, fill
from tests.adversity.test_hostile import Session, attack, is_large, is_slow

FILES_READ = {"diff": 2, "export": 1, "average": 2}
BASE = torch.arange(10.0**6)

small_disk = test_disk.small_disk  # a fixture


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, cases) -> Session:
    groups = ["looking", "ordinary", "amplified", "swollen", "slow"][: cases(3, 5)]
    return attack(tmp_path_factory.mktemp("hostile"), groups, [*FILES_READ], cases(12, 1))


def test_nothing_of_any_file_runs_and_nothing_is_left(session):
    assert session.where(lambda _, call: call["events"]) == {}
    assert session.left == []


def test_each_call_ends_well_or_says_what_is_wrong(session):
    def wrong(_, call):
        stray = "MARLIN_CKPT_TRACEBACK" in call["err"] or "Traceback" in call["err"]
        return call["code"] if call["code"] not in (0, 1, 3, 4) else stray and call["err"]

    assert session.where(wrong) == {}


def test_no_call_takes_long_for_a_file_or_more_memory_than_the_file_is_long_and_200_mb(session):
    def slow(file, call):
        files = FILES_READ[call["call"]]
        return is_slow(file, {**call, "busy": call["busy"] / files})

    assert session.where(slow) == {}
    assert session.where(is_large) == {}


def test_a_file_is_never_told_to_differ_from_itself(session):
    assert session.where(lambda _, call: call["call"] == "diff" and call["code"] == 1 and call["out"]) == {}


def test_whatever_is_printed_is_harmless_to_a_terminal(session):
    def wrong(_, call):
        return [line for line in f"{call['out']}\n{call['err']}".split("\n") if not line.isprintable()]

    assert session.where(wrong) == {}


@pytest.mark.parametrize("name", ["o.pt", "o.safetensors"])
@pytest.mark.parametrize("elements", [100_000, 1_000_000])
@pytest.mark.parametrize("command", ["export", "average"])
def test_a_full_disk_leaves_the_older_file_and_nothing_else(
    small_disk, tmp_path, capsys, name, elements, command
):
    torch.save({"w": torch.ones(elements)}, tmp_path / "source.pt")
    target = small_disk / name
    target.write_bytes(b"older")
    fill(small_disk, leaving=100_000)
    before = contents(small_disk)
    assert main([command, str(tmp_path / "source.pt"), "-o", str(target), "--force"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: cannot write: {os.strerror(errno.ENOSPC)}: {target}"
    assert "df -h" in hint
    assert contents(small_disk) == before
    (small_disk / "filler").unlink()
    options = ["--dtype", "bf16", "--force"] if elements == 100_000 else []
    assert main([command, str(tmp_path / "source.pt"), "-o", str(target), *options]) == (0 if options else 1)


@pytest.mark.parametrize(
    "tensors",
    [
        {"w": torch.ones(1).expand(10**12)},
        {f"w{number}": torch.ones(1).expand(10**6) for number in range(100)},
        {f"w{number}": BASE[number:] for number in range(300)},
    ],
    ids=["one", "many", "overlapping"],
)
@pytest.mark.parametrize("command", [["diff"], ["export", "-o", "o.pt"], ["average", "-o", "o.safetensors"]])
def test_tensors_that_repeat_a_few_bytes_endlessly_are_refused(
    tmp_path, monkeypatch, capsys, tensors, command
):
    monkeypatch.chdir(tmp_path)
    torch.save(tensors, "hostile.pt")
    files = ["hostile.pt"] * (1 if command[0] == "export" else 2)
    assert main([command[0], *files, *command[1:]]) == 3
    assert "refused: its tensors have" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["hostile.pt"]


def test_a_directory_that_is_not_there_is_told(tmp_path, capsys):
    torch.save({"w": torch.ones(1)}, tmp_path / "source.pt")
    target = tmp_path / "none" / "o.safetensors"
    assert main(["export", str(tmp_path / "source.pt"), "-o", str(target)]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: cannot write: {os.strerror(errno.ENOENT)}: {target}"
    assert "namei" in hint


_MEASURED = """
import sys
sys.modules["torch"] = None
from marlin_ckpt.cli.main import main
code = main(sys.argv[1:])
status = open("/proc/self/status").read()  # ru_maxrss may be that of the process which has started this one
print(int(status.split("VmHWM:")[1].split()[0]) << 10, file=sys.stderr)
sys.exit(code)
"""


def peak(repository: Path, *arguments: str | Path) -> int:
    """The most memory that a command has at once, in bytes."""
    ended = subprocess.run(
        [sys.executable, "-c", _MEASURED, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(repository)}, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode in (0, 1), ended.stderr
    return int(ended.stderr.splitlines()[-1])


def test_memory_is_bounded_by_the_largest_tensors_and_that_of_diff_by_blocks(directory, repository):
    large = {f"w{number}": torch.rand(8 << 20) for number in range(4)}  # of 32 MiB each
    paths = [Path(directory, name) for name in ("small.pt", "a.pt", "b.pt")]
    for path, state in zip(
        paths, ({"w": torch.ones(1)}, large, {**large, "w3": large["w3"] + 1}), strict=True
    ):
        torch.save(state, path)
    target = Path(directory, "o.safetensors")
    least = peak(repository, "diff", paths[0], paths[0])
    assert peak(repository, "diff", paths[1], paths[2]) - least < 32 << 20
    for command, tensors in (["export", paths[1]], 2), (["average", paths[1], paths[2]], 5):
        assert peak(repository, *command, "-o", target, "--force") - least < (32 * tensors + 32) << 20
