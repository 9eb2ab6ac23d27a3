"""`show` of folders that other tools wrote: one tree, the step, the metrics, and what is missing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from marlin_ckpt.cli.main import main
from tests.support.foreign import hugging_face, trainer
from tests.support.foreign.corpus import CHECKPOINTS


@pytest.fixture
def show(capsys):
    def run(*arguments: str | Path) -> str:
        assert main(["show", *map(os.fspath, arguments)]) == 0
        return capsys.readouterr().out

    return run


def facts(text: str) -> dict[str, str]:
    head = text.partition("\n\n")[0]
    return {line[:10].strip(): line[11:] for line in head.splitlines() if line[:1] != " "}


def test_the_layout_is_said_in_words_with_the_step_the_metrics_and_what_loads_it(show, tmp_path):
    made = trainer.make_trainer(tmp_path, step=4)
    found = facts(show(made.path))
    assert found["folder"].endswith("a checkpoint of the Trainer of Transformers")
    assert found["step"] == "4"
    assert "eval_loss 1 " in found["metrics"]
    assert "resume_from_checkpoint" in found["to load"]
    assert "MISSING" not in found


def test_what_is_missing_is_said_first_and_the_rest_is_shown(show, tmp_path):
    made = trainer.make_trainer(tmp_path)
    (made.path / "optimizer.pt").unlink()
    text = show(made.path)
    assert facts(text)["MISSING"] == "optimizer.pt is missing"
    assert "lm_head.weight" in text


def test_a_folder_whose_name_says_nothing_has_no_step(show, tmp_path):
    made = hugging_face.make_sharded(tmp_path)
    assert not {"step", "metrics"} & facts(show(made.path)).keys()


def test_the_document_has_the_layout_the_step_the_metrics_and_the_gaps(show, tmp_path):
    made = trainer.make_trainer(tmp_path, step=4)
    (made.path / "scheduler.pt").unlink()
    document = json.loads(show(made.path, "--json"))
    assert (document["layout"], document["index"], document["run_id"]) == ("trainer", 4, None)
    assert document["metrics"]["eval_loss"] == 1.0
    assert document["gaps"] == ["scheduler.pt is missing"]
    assert {one["name"] for one in document["tensors"]} >= {f"model.{name}" for name in made.weights}


@pytest.mark.parametrize("name", [name for name, make in CHECKPOINTS.items() if name != "hf-cached-shared"])
def test_every_kind_of_checkpoint_is_shown_with_the_shapes_of_its_weights(show, tmp_path, name):
    made = CHECKPOINTS[name](tmp_path)
    document = json.loads(show(made.path, "--json"))
    assert document["gaps"] == []
    shapes = [tuple(one["shape"]) for one in document["tensors"]]
    assert {tuple(one.shape) for one in made.weights.values()} <= {*shapes} or "deepspeed" in name
