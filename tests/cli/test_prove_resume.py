"""`marlin-ckpt prove-resume` finds exact resumes identical, and names what is not in the others."""

from __future__ import annotations

import json
import os
import subprocess
import types
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt.cli.main import main
from marlin_ckpt.cli.views import proof
from marlin_ckpt.training.proof.findings import Difference, Kill, Proof, first_difference
from tests.support import warm
from tests.support.folders import REPOSITORY, SUPPORT

_CONFIG = """
module:
  name: proven_modules:{module}
  args: {args}
trainer:
  epochs: 3
  train_batch_size: 8
  val_batch_size: 16
  device: cpu
checkpointer:
  save_dir: never-used
"""


@pytest.fixture
def prove(capsys, tmp_path, monkeypatch):
    """Proves a module of `proven_modules.py`: returns the exit code, the document, and the talk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(SUPPORT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(os.fspath, (SUPPORT, REPOSITORY))))
    monkeypatch.setenv("COUNTER", str(tmp_path / "counter"))
    # The pages whose commands test_docs.py runs have processes of their own.
    monkeypatch.setattr(
        "marlin_ckpt.training.proof.runs.subprocess",
        types.SimpleNamespace(Popen=warm.Popen, DEVNULL=subprocess.DEVNULL),
    )

    def run(module: str, *options: str, args: dict | None = None, **overrides):
        Path("run.yaml").write_text(_CONFIG.format(module=module, args=json.dumps(args or {})))
        sets = [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]
        code = main(["prove-resume", "--config", "run.yaml", "--json", *sets, *options])
        out, err = capsys.readouterr()
        found = json.loads(out)
        if error := found.get("error"):
            assert error["exit_code"] == code
            return code, None, err
        return code, found, err

    return run


# Saved after each step, so that it can be killed and go on at any one.
_BY_STEP = {"trainer.index_by": "step", "checkpointer.period": 1}
# 44 samples in batches of 8 are 6 steps an epoch, the last one of 4.
_EVERYWHERE = "1,3:save,5,6,6:validation,7,8,9:save,10:signal,11,12,12:validation,13,14:save,15,16,17,18:save"
_CASES = [
    ({"workers": 2, "foreach": True}, {"trainer.gpu_batch_size_limit": 2, "checkpointer.async_save": "true"}),
    ({}, {"trainer.index_by": "epoch"}),
    ({"fused": True}, {"trainer.gpu_batch_size_limit": 2}),
    ({"loader": "shuffle"}, {"trainer.max_train_steps_per_epoch": 4}),
    ({"loader": "stream", "workers": 1}, {"trainer.max_train_steps_per_epoch": 6}),
    ({"schedule": "epoch"}, {"trainer.step_schedulers_by": "epoch", "trainer.backend": "sp-amp"}),
]


@pytest.mark.parametrize("number", range(len(_CASES)))
def test_a_module_that_draws_from_torch_alone_resumes_identically_wherever_it_is_killed(prove, cases, number):
    if number >= cases(1, len(_CASES)):
        pytest.skip("one of them in each run: --campaign runs all; test_exact_resume.py without processes")
    args, overrides = _CASES[number]
    overrides = {**_BY_STEP, **overrides}
    kills = _EVERYWHERE.split(",") if cases(0, 1) else ["6:validation"]
    in_epoch = overrides.get("trainer.max_train_steps_per_epoch", 6)
    steps = cases(8, 3 * in_epoch)
    if in_epoch != 6:
        kills = [one for one in kills if ":validation" not in one]  # whose steps end no epoch
    if overrides["trainer.index_by"] == "epoch":
        kills = [one for one in kills if ":save" not in one]  # whose file ends the epoch, past other kills
    kills = [one for one in kills if int(one.partition(":")[0]) < steps]
    code, found, err = prove(
        "Careful", "--steps", str(steps), "--kill-at", ",".join(kills), args=args, **overrides
    )
    assert (code, found and found["difference"]) == (0, None), err
    assert found["identical"]
    assert found["steps"] == steps
    assert len(found["kills"]) + len(found["missed"]) == len(kills)
    assert len(found["missed"]) <= sum(":validation" in one for one in kills)
    assert found["compared"]["losses"] == steps
    assert found["compared"]["tensors"] > steps * 20


@pytest.mark.parametrize("name", ["text", "spiral"])
def test_the_modules_that_come_with_us_resume_identically(
    capsys, cases, tmp_path, repository, monkeypatch, name
):
    if not cases(0, 1):
        pytest.skip("--campaign runs it")
    monkeypatch.chdir(repository)
    config = {"text": "quickstart.yaml", "spiral": "ci.yaml"}[name]
    kills = ",".join(map(str, range(1, 40, 2)))
    assert (
        main(["prove-resume", "--config", f"configs/{config}", "--steps", "40", "--kill-at", kills, "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["identical"], len(found["kills"])) == (True, 20)


def test_what_is_lost_at_an_epochs_border_is_found_with_the_runs_own_configuration_alone(
    prove, cases, tmp_path
):
    (tmp_path / "here").mkdir()
    options = ("--kill-at", "6") if cases(0, 1) == 0 else ()
    code, found, err = prove("Annealed", "--directory", "here", *options)
    assert code == 3, err
    assert found["steps"] == 12  # two epochs, each of which is saved
    assert (found["difference"]["step"], found["difference"]["what"]) == (7, "loss")
    assert found["difference"]["cause"] == "6"
    assert found["unheld"] == ["noise"]
    assert options or any(one.endswith(":signal") for one in found["kills"])
    assert list((tmp_path / "here").iterdir()) == []


def test_a_generator_of_the_modules_own_is_found_after_the_first_kill(prove, cases):
    if not cases(0, 1):
        pytest.skip("--campaign runs it")
    code, found, _ = prove("OwnGenerator", "--steps", "4", "--kill-at", "2", **_BY_STEP)
    assert code == 3
    assert (found["difference"]["step"], found["difference"]["what"]) == (3, "loss")
    assert found["difference"]["cause"] == "2"
    assert "get_state" in found["difference"]["hint"]


def test_a_loader_that_shuffles_by_the_clock_is_found_and_is_no_matter_of_resuming(prove, cases):
    if not cases(0, 1):
        pytest.skip("--campaign runs it")
    code, found, _ = prove("ByTime", "--steps", "8", "--kill-at", "4")
    assert code == 3
    assert (found["difference"]["step"], found["difference"]["what"]) == (1, "batch")
    assert found["difference"]["cause"] is None
    assert "no kill came before it" in found["difference"]["hint"]


def test_an_optimizers_rate_that_changed_is_named(prove, cases):
    if not cases(0, 1):
        pytest.skip("--campaign runs it")
    code, found, _ = prove("AnotherRate", "--steps", "2", "--kill-at", "1", **_BY_STEP)
    assert code == 3
    assert found["difference"]["what"] == "the run cannot go on"
    assert "optimizers[0].param_groups[0].lr was 0.01 and is 0.02" in found["difference"]["resumed"]


def test_a_run_that_its_module_ends_early_is_proved_up_to_its_end_without_a_warning(prove):
    kills = ["--kill-at", "9,11:signal,14,16:signal"]
    code, found, err = prove("Short", "--steps", "18", *kills, **_BY_STEP)
    assert (code, found["steps"], found["difference"]) == (0, 12, None)
    assert (found["kills"], found["missed"]) == (["9", "11:signal"], ["14", "16:signal"])
    assert found["unheld"] == []
    assert "should_stop" not in err


def test_a_count_that_dies_with_the_process_is_found(prove, cases):
    if not cases(0, 1):
        pytest.skip("--campaign runs it")
    code, found, _ = prove("Counting", "--steps", "6", "--kill-at", "3", **_BY_STEP)
    assert code == 3
    assert (found["difference"]["step"], found["difference"]["what"]) == (4, "loss")


def test_a_run_that_fails_without_any_kill_is_an_error_that_says_how(prove):
    code, found, err = prove("Broken", "--steps", "2", "--kill-at", "1")
    assert (code, found) == (1, None)
    assert "the run fails, killed or not" in err
    assert "out of luck" in err


@pytest.mark.parametrize("kill_at", ["0", "x", "5:lunch", "5,", "20", "3,21:save"])
def test_a_kill_at_no_step_is_a_usage_error(prove, kill_at):
    code, found, err = prove("Careful", "--steps", "20", "--kill-at", kill_at)
    assert (code, found) == (2, None)
    assert "--kill-at" in err


PROVEN = Proof(
    steps=4, kills=(Kill(2),), missed=(), batches=4, losses=4, tensors=180, values=160, difference=None
)


def test_for_people_it_prints_the_verdict_and_what_was_compared(capsys):
    proof.show(PROVEN)
    assert capsys.readouterr().out.splitlines() == [
        "identical: 4 steps, straight and killed after 2",
        "compared bit for bit: 4 batches, 4 losses, 180 tensors and 160 values, step by step",
    ]


def test_for_people_it_prints_the_first_difference_and_by_how_much(capsys):
    found = Difference(3, "weight", "[2] #a", "[2] #b", Kill(2), at_end="by 0.5", hint="look there")
    proof.show(replace(PROVEN, missed=(Kill(9),), difference=found))
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "different: after step 3: weight",
        "  straight: [2] #a",
        "  resumed: [2] #b",
        "  in the last checkpoints: by 0.5",
        "  after the kill at 2; killed after 2",
    ]
    assert err.splitlines() == [
        "warning: no kill at 9: the run never reached that moment", "hint: look there",
    ]  # fmt: skip


def test_for_people_it_warns_of_what_no_state_holds_and_escapes_its_name(capsys):
    proof.show(replace(PROVEN, unheld=("means[0]", "\x1b[2J")))
    out, err = capsys.readouterr()
    assert out.startswith("identical: ")
    assert err.splitlines()[0] == (
        "warning: the module's means[0] changes while it trains, and no state holds it: "
        "a resumed run begins with another value"
    )
    assert "\x1b" not in err


@pytest.mark.parametrize(("step_s", "says"), [(10, "about 7 minutes for twice 20 steps"), (1, "")])
def test_a_proof_that_takes_more_than_a_few_minutes_says_so_once(capsys, step_s, says):
    times = iter(range(0, 10_000, step_s))
    with proof.progress(quiet=False, clock=lambda: next(times)) as on_step:
        for step in range(1, 21):
            on_step("straight", step, 20)
    told = [line for line in capsys.readouterr().err.splitlines() if "minutes" in line]
    assert told == ([f"this takes {says}; --steps N compares fewer"] if says else [])


def test_off_a_terminal_each_run_is_named_once_and_with_quiet_none_is(capsys):
    for quiet in (False, True):
        with proof.progress(quiet=quiet) as on_step:
            for name in ("straight", "resumed"):
                on_step(name, 1, 2)
                on_step(name, 2, 2)
        told = capsys.readouterr().err.splitlines()
        assert told == ([] if quiet else ["training without a stop", "training, killed and resumed"])


def record(step: int, **changes) -> dict:
    return {"step": step, "batches": ["b"], "loss": "1.0", "states": {"a": "x", "b": "y"}, **changes}


@given(
    st.integers(1, 8),
    st.integers(1, 8),
    st.sampled_from(
        [{"loss": "2.0"}, {"batches": ["c"]}, {"states": {"a": "x", "b": "z"}}, {"states": {"a": "x"}}]
    ),
)
def test_the_first_difference_is_that_of_the_earliest_record(first, second, change):
    straight = {step: record(step) for step in range(1, 9)}
    resumed = [(record(step, **(change if step in (first, second) else {})), Kill(1)) for step in range(1, 9)]
    found = first_difference(straight, resumed)
    assert found.step == min(first, second)
    assert found.what == {"loss": "loss", "batches": "batch", "states": "b"}[next(iter(change))]


@given(st.integers(1, 8))
def test_a_run_that_ended_early_or_late_differs_in_its_number_of_steps(length):
    straight = {step: record(step) for step in range(1, 9)}
    resumed = [(record(step), None) for step in range(1, length + 1)]
    found = first_difference(straight, resumed)
    assert (found is None) == (length == 8)
    late = first_difference({1: record(1)}, [(record(1), None), (record(2), None)])
    assert (late.step, late.what) == (2, "the number of steps")
