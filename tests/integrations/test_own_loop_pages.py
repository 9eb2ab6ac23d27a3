"""The page on loops of one's own: its trainings go on as if they had not been killed; its recipes hold."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import marlin_ckpt
from marlin_ckpt import StorageError, UnsafeCheckpointError
from marlin_ckpt.formats.torch import writer
from tests.support import warm
from tests.support.checkpoint_directories import listed
from tests.support.equality import is_same
from tests.support.pages import blocks


def block_with(text: str) -> str:
    """The one block of Python of the page that holds a text."""
    (found,) = [block for block in blocks("own-loop", "python") if text in block]
    return found


TRAINING = block_with("signal.signal")
AHEAD = block_with("runs/nano")
OLD = block_with("ckpt.pt")
FULL = block_with("ENOSPC")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(TRAINING)
    return path


def _train(
    script: Path, directory: Path, until: str = "", number: int = signal.SIGKILL
) -> tuple[int, list[str]]:
    """Runs the training, and sends it a signal when it has printed a line that begins so."""
    directory.mkdir(exist_ok=True)
    said = []
    with warm.Popen(
        [sys.executable, str(script)], cwd=directory, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            said.append(line.rstrip())
            if until and line.startswith(until):
                os.kill(process.pid, number)
                until = ""
    return process.returncode, said


def test_a_training_that_is_killed_and_stopped_ends_with_the_same_state(script: Path, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    code, said = _train(script, straight)
    assert (code, said[0], said[-1].split("  ")[0]) == (0, "starts from the beginning", "step 45")
    code, _ = _train(script, killed, "step 10")
    assert code == -signal.SIGKILL
    code, stopped = _train(script, killed, "step 25", signal.SIGTERM)
    assert stopped[0] in ("goes on after step 5", "goes on after step 10")
    assert code == 128 + signal.SIGTERM
    code, resumed = _train(script, killed)
    assert code == 0
    step = stopped[-1].split("  ")[0].removeprefix("step ")  # what the signal had it save
    assert resumed[0] == f"goes on after step {step}"
    states = [
        marlin_ckpt.load(directory / "runs" / "gpt" / "model_45.pt") for directory in (straight, killed)
    ]
    assert is_same(*states)
    assert _train(script, killed) == (0, ["goes on after step 45"])


def test_a_loop_that_draws_its_batches_ahead_goes_on_after_a_kill_as_if_it_had_not_been(tmp_path) -> None:
    straight, killed, script, dying = (tmp_path / name for name in ("straight", "killed", "go.py", "die.py"))
    script.write_text(AHEAD)
    assert "\n    step += 1\n" in AHEAD
    dies = "\n    step += 1\n    if step == 13: os.kill(os.getpid(), 9)\n"
    dying.write_text("import os\n" + AHEAD.replace("\n    step += 1\n", dies))
    assert _train(script, straight) == (0, [f"step {step}" for step in range(5, 41, 5)])
    assert _train(dying, killed) == (-signal.SIGKILL, ["step 5", "step 10"])
    assert _train(script, killed) == (0, [f"step {step}" for step in range(15, 41, 5)])
    assert is_same(*(marlin_ckpt.load(one / "runs" / "nano" / "model_40.pt") for one in (straight, killed)))


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_an_old_file_is_the_first_checkpoint_and_is_not_read_a_second_time(tmp_path, monkeypatch, prefix):
    monkeypatch.chdir(tmp_path)
    making, using = OLD.split("\n\n", 1)[1].split("live = ")
    using = "live = " + using
    given: dict[str, Any] = {}
    exec(OLD.split("\n\n", 1)[0] + "\n" + making, given)
    wanted = {name: one.clone() for name, one in given["model"].state_dict().items()}
    if prefix:
        given["state"]["model"] = {prefix + name: one for name, one in wanted.items()}
        torch.save(given["state"], "ckpt.pt")
        using = using.replace("into=live)[", f"into=live, strip_prefix={prefix!r})[")
    for _ in range(2):
        torch.nn.init.zeros_(given["model"].weight)
        exec(using, given)
        assert given["step"] == 2000
        assert is_same({**given["model"].state_dict()}, wanted)
        assert listed("runs/new") == ["model_2000.pt"]
        Path("ckpt.pt").write_bytes(b"no longer read")


def test_an_old_file_with_other_objects_is_refused_until_it_is_trusted(tmp_path):
    model = torch.nn.Linear(2, 2)
    torch.save({"model": model.state_dict(), "config": Path("a")}, tmp_path / "ckpt.pt")
    with pytest.raises(UnsafeCheckpointError):
        marlin_ckpt.load(tmp_path / "ckpt.pt", into={"model": model})
    found = marlin_ckpt.load(tmp_path / "ckpt.pt", into={"model": model}, weights_only=False)
    assert found["config"] == Path("a")


@pytest.mark.parametrize(("is_async", "failing"), [(False, 3), (True, 3), (True, 5)])
def test_on_a_full_disk_the_loop_of_the_page_goes_on_and_keeps_what_it_has(
    tmp_path, monkeypatch, capsys, is_async, failing
):
    monkeypatch.chdir(tmp_path)
    write, name = (writer.write_image, "write_image") if is_async else (writer.write_encoded, "write_encoded")

    def written(path: str, *rest: Any) -> Any:
        if path.endswith(f"model_{failing}.pt"):
            raise StorageError("cannot write: no space left", path, errno=errno.ENOSPC)
        return write(path, *rest)

    monkeypatch.setattr(writer, name, written)
    code = FULL.replace("keep=2", f"keep=2, asynchronous={is_async}")
    if failing == 5:  # no save comes after it
        with pytest.raises(StorageError, match="no space left"):
            exec(code, {})
    else:
        exec(code, {})
    said = capsys.readouterr().out
    assert said.count("trains on: ") == (failing != 5)
    assert listed("runs/full") == [f"model_{one}.pt" for one in ((3, 4) if failing == 5 else (4, 5))]
