"""`marlin-ckpt list`: which files, in which order, run by run, and a metric as a line."""

from __future__ import annotations

import datetime
import functools
import json
import math
import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt.cli.text import spark
from marlin_ckpt.operations.listing import marks, wanted


@pytest.fixture
def list_(run_main):
    return functools.partial(run_main, "list")


@pytest.fixture
def indices(list_):
    def run(*arguments: str | Path) -> list[int]:
        code, out, err = list_(*arguments, "--json")
        assert (code, err) == (0, "")
        return [one["index"] for one in json.loads(out)["checkpoints"]]

    return run


@pytest.fixture
def saved(make_checkpointer, make_checkpoint, manifests_say, tmp_path) -> Path:
    checkpointer = make_checkpointer()
    for index, (loss, hours) in enumerate([(3.0, 1), (1.0, 30), (math.nan, 2), (1.0, 200), (2.0, 5)]):
        manifests_say(datetime.timedelta(hours=hours))
        checkpointer.save(make_checkpoint(float(index), loss=loss), index)
    torch.save({"weight": torch.ones(9000)}, tmp_path / "checkpoints" / "model_9.pt")
    os.utime(tmp_path / "checkpoints" / "model_9.pt", (time.time() - 6 * 3600,) * 2)
    return tmp_path / "checkpoints"


def test_best_lists_what_has_the_metric_the_best_first_of_equal_ones_the_newer(indices, saved):
    assert indices(saved, "--best", "loss") == [3, 1, 4, 0]
    assert indices(saved, "--best", "loss:min") == [3, 1, 4, 0]
    assert indices(saved, "--best", "loss:max") == [0, 4, 3, 1]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("index", [0, 1, 2, 3, 4, 9]),
        ("age", [3, 1, 9, 4, 2, 0]),
        ("name", [0, 1, 2, 3, 4, 9]),
        ("loss", [1, 3, 4, 0, 2, 9]),
    ],
)
def test_sort_puts_them_in_the_order_of_a_column_or_a_metric(indices, saved, key, expected):
    assert indices(saved, "--sort", key) == expected


def test_sort_by_size_puts_the_largest_last(indices, saved):
    assert indices(saved, "--sort", "size")[-1] == 9


@pytest.mark.parametrize(
    ("since", "expected"), [("3h", [0, 2]), ("2d", [0, 1, 2, 4, 9]), ("1970-01-02", [0, 1, 2, 3, 4, 9])]
)
def test_since_leaves_older_files_out(indices, saved, since, expected):
    assert indices(saved, "--since", since) == expected


def test_a_day_is_one_of_this_machine_and_a_time_may_have_a_zone(monkeypatch):
    monkeypatch.setenv("TZ", "Etc/GMT-2")  # two hours before UTC
    time.tzset()
    try:
        assert wanted.moment_s("1970-01-02", now_s=0) == 86400 - 7200
    finally:
        monkeypatch.undo()
        time.tzset()
    assert wanted.moment_s("1970-01-02T01:00+01:00", now_s=0) == 86400
    assert wanted.moment_s("2h", now_s=7200) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sort", "los"), "has 'los'; did you mean loss?"),
        (("--best", "los:max"), "has 'los'"),
        (("--spark", "los"), "has 'los'"),
        (("--metric", "loss", "--metric", "los"), "has 'los'"),
        (("--best", "index"), "has 'index'"),
        (("--spark", "age"), "has 'age'"),
        (("--since", "yesterday"), "expected a time such as 2d"),
    ],
)
def test_a_wrong_option_is_a_usage_error(list_, saved, arguments, message):
    code, out, err = list_(saved, *arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("arguments", [("list", "--best", "los"), ("clean", "--keep-best", "los")])
def test_a_metric_that_no_checkpoint_has_ends_list_and_clean_alike(run_main, saved, arguments):
    command, *options = arguments
    code, out, err = run_main(command, saved, *options, "--json")
    message = f"metric: no checkpoint in {saved} has 'los'; did you mean loss?"
    assert (code, err) == (2, f"error: {message}\nhint: they have loss\n")
    assert json.loads(out)["error"] == {
        "type": "ArgumentsError", "message": message, "hint": "they have loss", "exit_code": 2,
    }  # fmt: skip


TRAINER_LOGS = [
    "epoch", "eval_accuracy", "eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second",
    "grad_norm", "learning_rate", "loss", "train_runtime",
]  # fmt: skip


@pytest.fixture
def logged(make_checkpointer, make_checkpoint, tmp_path) -> Path:
    measured = {name: float(number) for number, name in enumerate(TRAINER_LOGS)}
    make_checkpointer().save(make_checkpoint(**measured), 1)
    return tmp_path / "checkpoints"


def test_of_many_metrics_the_losses_and_evaluations_are_printed_and_json_has_all(list_, logged):
    _, out, err = list_(logged)
    header, row = out.splitlines()
    assert header.split()[4:-2] == ["eval_loss", "loss", "eval_accuracy"]
    assert row.split()[6:-2] == ["2", "8", "1"]
    more = "epoch, eval_runtime, eval_samples_per_second, ..."
    assert err.splitlines()[1:] == [f"hint: 7 more metrics, --metric NAME prints one: {more}"]
    assert [*json.loads(list_(logged, "--json")[1])["checkpoints"][0]["metrics"]] == TRAINER_LOGS


def test_metric_chooses_what_is_printed_in_this_order(list_, logged):
    _, out, err = list_(logged, "--metric", "grad_norm", "--metric", "epoch")
    header, row = out.splitlines()
    assert (header.split()[4:-2], row.split()[6:-2]) == (["grad_norm", "epoch"], ["6", "0"])
    assert "hint" not in err


@pytest.mark.parametrize("options", [("--best", "grad_norm"), ("--sort", "learning_rate")])
def test_what_the_files_are_ordered_by_is_printed(list_, logged, options):
    assert f"  {options[1]}  " in list_(logged, *options)[1]


@pytest.mark.parametrize(
    ("names", "usual"),
    [
        ("entropy kl lr reward", "entropy kl lr reward"),
        ("entropy kl lr reward step", "entropy kl lr reward"),
        ("entropy kl lr policy_loss value_loss", "policy_loss value_loss"),
        ("a_loss b_loss c_loss d_loss e_loss", "a_loss b_loss c_loss d_loss"),
        ("a_runtime b_runtime c_runtime d_runtime e_runtime", "a_runtime b_runtime c_runtime d_runtime"),
        ("epoch loss lr val_acc val_loss", "loss val_loss val_acc"),
    ],
)
def test_the_usual_metrics_are_the_few_that_people_look_for(names, usual):
    assert marks.usual_metrics(names.split()) == usual.split()


def test_a_tree_is_grouped_by_run(list_, saved, make_checkpointer, make_checkpoint):
    for name in ("b", "a"):
        other = make_checkpointer(load_dir=None, save_dir=str(saved / name))
        for index in (11, 3):
            other.save(make_checkpoint(loss=float(index)), index)
    code, out, _ = list_(saved, "--recursive")
    header, *rows = [line.split() for line in out.splitlines()]
    assert (code, header[0]) == (0, "run")
    assert [row[-1] for row in rows[-4:]] == [
        "a/model_3.pt",
        "a/model_11.pt",
        "b/model_3.pt",
        "b/model_11.pt",
    ]
    assert rows[-1][0] == rows[-2][0] != rows[-3][0]
    assert rows[0][:2] == ["-", "9"]
    code, out, _ = list_(saved, "--recursive", "--best", "loss:max")
    assert [line.split()[-1] for line in out.splitlines()][-2:] == ["b/model_11.pt", "b/model_3.pt"]


def test_a_metric_is_drawn_as_a_line_for_each_run(list_, saved):
    code, out, _ = list_(saved, "--spark", "loss")
    assert code == 0
    assert out.splitlines()[-1].startswith("loss of run ")
    assert out.splitlines()[-1].endswith("  █▁▁▅  3 to 2, least 1, greatest 3")
    plain, drawn = list_(saved, "--json")[1], list_(saved, "--spark", "loss", "--json")[1]
    assert plain == drawn


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=200), st.integers(2, 50)
)
def test_a_line_has_a_block_for_each_number_or_as_many_as_fit(values, width):
    drawn = spark(values, width)
    assert len(drawn) == min(len(values), width)
    assert set(drawn) <= set("▁▂▃▄▅▆▇█")
    if len(set(values)) > 1 and len(values) <= width:
        assert drawn[values.index(max(values))] == "█"
        assert drawn[values.index(min(values))] == "▁"
