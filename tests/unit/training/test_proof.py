"""The parts of a proof of exact resuming, without its processes."""

import errno
import io
import json
import os
import signal
from collections import deque

import pytest
import torch

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.distributed.failures import of_all
from marlin_ckpt.errors import (
    ConfigError,
    MarlinError,
    RankError,
    StateMismatchError,
    StorageError,
    TrainingError,
)
from marlin_ckpt.training.proof import child, proof
from marlin_ckpt.training.proof.child import Job, two_saves
from marlin_ckpt.training.proof.findings import Kill
from marlin_ckpt.training.proof.hidden import Hidden
from marlin_ckpt.training.proof.runs import Part, Runs
from marlin_ckpt.training.resume.leaves import fingerprint, leaves


class Forgetful(torch.nn.Module):
    """Changes much, and has only a part of it in its state."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.inner = torch.nn.Identity()
        self.register_buffer("quiet", torch.zeros(5), persistent=False)
        self.register_buffer("saved", torch.zeros(1))
        self.constant, self.limit = torch.ones(3), 7
        self.inner.mean = torch.zeros(2)
        self.parts = [{"ema": torch.zeros(2)}, torch.nn.Linear(1, 1)]
        self.seen = deque([0, 0])
        self.count, self.rate, self.kept, self.loss = 0, 1.0, 5, 0.0
        self.generator = torch.Generator().manual_seed(1)
        self.alias = [self.layer.weight]

    def step(self):
        with torch.no_grad():
            for one in self.layer.weight, self.quiet, self.saved, self.parts[1].weight:
                one.add_(1)
        self.inner.mean.data.lerp_(torch.ones(2), 0.5)  # not counted by autograd
        self.parts[0]["ema"] = self.parts[0]["ema"] + 1
        self.seen.append(self.count)
        self.count, self.rate, self.kept = self.count + 1, self.rate / 2, self.kept + 1
        self.loss = 0.25 * self.count
        torch.rand(1, generator=self.generator)

    def states(self) -> dict[str, str]:
        state = {**self.state_dict(), "an entry by another name": self.kept}
        return {path: fingerprint(one) for path, one in leaves(state)}


def test_it_finds_the_tensors_and_numbers_that_change_and_are_in_no_state_and_only_these():
    module = Forgetful()
    hidden = Hidden(module)
    before = hidden.values()
    for _ in range(3):
        module.step()
        hidden.follow(module.states())
    hidden.measured({"val_loss": module.loss})
    assert sorted(hidden.unheld(before, module.states())) == [
        "count", "generator", "inner.mean", "parts[0]['ema']", "parts[1].weight", "quiet", "rate", "seen",
    ]  # fmt: skip


def test_what_is_the_same_after_a_resume_is_no_matter_whether_or_not_a_state_holds_it():
    straight = Part(values={"a": "1", "b": "2", "c": "3"}, unheld=["a", "b"])
    resumed = Part(begin=4, values={"a": "1", "b": "5", "c": "6"}, unheld=["c"])
    assert proof._unheld(straight, resumed, None) == ("b", "c")
    resumed.begin = 0  # began anew, which proves nothing
    assert proof._unheld(straight, resumed, None) == ("a", "b")


@pytest.mark.parametrize(
    ("fields", "period", "expected"),
    [
        ({"epochs": 9}, 1, (6, 12)),
        ({"epochs": 9}, 3, (6, 24)),
        ({"epochs": 2}, 5, (6, 12)),  # the last epoch is always saved
        ({"epochs": 1}, 1, (6, 6)),
        ({"epochs": 9, "index_by": "step"}, 4, (4, 8)),
        ({"epochs": 1, "index_by": "step"}, 4, (4, 6)),
    ],
)
def test_a_proof_takes_two_saves_of_the_run_as_it_is_configured(fields, period, expected):
    assert two_saves(TrainerArguments(**fields), period, 6) == expected


@pytest.mark.parametrize(("first", "steps"), [(6, 12), (6, 6), (1, 2), (4, 8)])
def test_unless_told_otherwise_it_kills_after_the_first_save_and_once_by_a_signal(first, steps):
    for _ in range(20):
        kills = proof._kills(first, steps)
        assert all(0 < one.step < steps for one in kills)
        assert sum(one.moment == "signal" for one in kills) == 1
        assert (Kill(first) in kills) == (first < steps)
        assert all(one.step >= first for one in kills if one.moment == "step")
    assert proof._kills(1, 1) == []


def test_the_proof_saves_when_and_how_the_configuration_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = """
module: {name: spiral}
trainer: {epochs: 9, index_by: epoch}
checkpointer: {save_dir: mine, model_state_save_dir: mine, period: 3, async_save: true, file_prefix: own}
"""
    (tmp_path / "run.yaml").write_text(text)
    config = child._configured(Job("run.yaml", [], "elsewhere", 0))
    ours = config.checkpointer
    assert (config.trainer.index_by, ours.period, ours.async_save, ours.file_prefix) == (
        "epoch",
        3,
        True,
        "own",
    )
    assert (ours.save_dir, ours.model_state_save_dir, ours.keep.last) == ("elsewhere", None, 1)
    assert not os.path.exists("mine")


@pytest.mark.parametrize(
    "error",
    [
        StorageError("cannot write: No space left on device", "model_3.pt", errno=errno.ENOSPC),
        OSError(errno.EIO, "Input/output error"),
        MemoryError("no room"),
    ],
)
def test_a_full_disk_or_another_fault_of_the_machine_is_an_error_and_no_difference(monkeypatch, error):
    reading, writing = os.pipe()
    job = {"config": "run.yaml", "overrides": [], "directory": "", "steps": 4, "fd": writing}
    monkeypatch.setattr("sys.argv", ["child", json.dumps(job)])

    def fails(*_args):
        raise error

    monkeypatch.setattr(child, "_run", fails)
    assert child.main() == 1
    os.close(writing)
    runs = Runs(Job("run.yaml", [], "", 4), lambda *_: None)
    with os.fdopen(reading, "rb") as pipe, pytest.raises(TrainingError) as caught:
        runs._read("resumed", pipe, Part())
    assert str(error) in str(caught.value)
    assert caught.value.exit_code == 1
    assert "--directory" in caught.value.hint


def test_a_directory_that_is_not_there_is_an_error_before_anything_is_trained(tmp_path):
    where, config = str(tmp_path / "missing"), tmp_path / "run.yaml"
    config.write_text("module: {name: spiral}")
    with pytest.raises(StorageError, match=f"No such file or directory: {where}"):
        proof.prove(proof.Trial(str(config), directory=where), lambda *_: None)


@pytest.mark.parametrize(
    ("backend", "count", "what"),
    [
        ("fsdp2", 0, "fsdp2 trains in several processes"),
        ("sp", 2, "sp trains in one process, and --nproc asks for 2"),
    ],
)
def test_a_backend_that_does_not_go_with_the_ranks_is_refused_before_anything_is_trained(
    tmp_path, backend, count, what
):
    config = tmp_path / "run.yaml"
    config.write_text(f"module: {{name: spiral}}\ntrainer: {{backend: {backend}}}")
    with pytest.raises(ConfigError, match=f"trainer.backend: {what}"):
        proof.prove(proof.Trial(str(config), ranks=count), lambda *_: None)


def test_of_many_ranks_the_error_of_the_one_that_failed_by_itself_is_reported(tmp_path):
    said, part = io.BytesIO(b"what torchrun prints of its own"), Part()
    runs = Runs(Job("run.yaml", [], "", 4), lambda *_: None, ranks=2)
    runs._take("straight", {"error": "rank 0: rank 1 has ended", "is_of_others": True}, part)
    assert isinstance(failure := runs._failure(part, 1, said), TrainingError)
    assert (failure.hint, failure.where) == ("rank 0: rank 1 has ended", "run.yaml")
    for error in ("rank 1: ValueError: no", "rank 2: another"):
        runs._take("straight", {"error": error, "is_of_others": False}, part)
    runs._take("straight", {"error": "rank 3: rank 1 has ended", "is_of_others": True}, part)
    assert runs._failure(part, 1, said).what == "rank 1: ValueError: no"
    assert runs._failure(Part(), 1, said).what == "what torchrun prints of its own"


@pytest.mark.parametrize(
    ("error", "rank", "told", "is_of_others"),
    [
        (StateMismatchError("no fit"), 1, "rank 1: no fit", False),
        (RankError("rank 0 has ended"), 1, "rank 1: rank 0 has ended", True),
        (of_all(StateMismatchError("no fit")), 0, "no fit", False),
        (of_all(StateMismatchError("no fit")), 1, "no fit", True),
        (of_all(ValueError("no")), 1, "rank 1: ValueError: no", False),
    ],
)
def test_a_rank_reports_whether_its_error_is_that_of_another(monkeypatch, error, rank, told, is_of_others):
    monkeypatch.setenv("RANK", str(rank))
    found = []
    teller = child._Teller(Job("run.yaml", [], "", 4, pipes="reports-"))
    monkeypatch.setattr(teller, "tell", found.append)
    teller.fails(error, str(error) if isinstance(error, MarlinError) else child._last_lines(error))
    assert found == [{"error": told, "is_of_others": is_of_others}]


@pytest.mark.parametrize(
    ("moment", "steps", "struck", "missed"),
    [
        ("validation", (3, 4), [signal.SIGKILL], True),
        ("step", (4,), [signal.SIGKILL], True),  # goes on from a later save
        ("save", (3, 4, 5), [], False),  # waits for the next file
        ("signal", (2, 3, 4), [signal.SIGTERM], False),  # many ranks answer it a step later
    ],
)
def test_a_run_whose_moment_to_be_killed_has_passed_leaves_the_rest_to_the_next_one(
    monkeypatch, moment, steps, struck, missed
):
    killed = []
    monkeypatch.setattr(child.os, "kill", lambda _process, number: killed.append(number))
    monkeypatch.setattr(child, "_kill_in_save", lambda _directory: None)
    reading, writing = os.pipe()
    teller = child._Teller(Job("run.yaml", [], "", 9, kill_at=3, moment=moment, fd=writing))
    for step in steps:
        teller._come_to(step)
    os.close(writing)
    part = Part()
    with os.fdopen(reading, "rb") as pipe:
        Runs(Job("run.yaml", [], "", 9), lambda *_: None)._read("resumed", pipe, part)
    assert (killed, part.is_missed) == (struck, missed)
