"""`config`: what of a YAML file is in force and what set it, and the schema of the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
import pytest

from marlin_ckpt.cli import schemas
from marlin_ckpt.config import read_config
from marlin_ckpt.config.schema import schema
from tests.support.folders import visible

_RUN = """\
module:
  name: a.b:C
  args: {width: 8, "odd key": [1, "yes"], rate: .inf}
ckpt:
  save_dir: runs/a
  keep:
    best: [{metric: loss}, {metric: "a: b", count: 2}]
"""
_SETS = ["--set", "module.args.depth=2", "--set", "ckpt.keep.last=3", "--set", "trainer.seed=7"]


@pytest.fixture(autouse=True)
def _run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(_RUN)


def test_each_key_is_shown_with_the_line_or_the_option_that_sets_it(run_main):
    code, out, _ = run_main("config", "show", "--config", "run.yaml", *_SETS)
    assert code == 0
    lines = {line.split("#")[0].strip(" -"): line.split("# ")[-1] for line in out.splitlines()}
    expected = {
        "width: 8": "run.yaml:3",
        '"odd key": [1, "yes"]': "run.yaml:3",
        "rate: .inf": "run.yaml:3",
        "depth: 2": "--set",
        "seed: 7": "--set",
        "epochs: 1": "default",
        "save_dir: runs/a": "run.yaml:5",
        "model_state_save_dir: runs/a": "as save_dir",
        "load_dir: null": "default",
        "last: 3": "--set",
        'metric: "a: b"': "run.yaml:7",
        "mode: min": "default",
        "count: 2": "run.yaml:7",
    }
    assert {key: lines.get(key) for key in expected} == expected


def test_what_is_shown_is_read_as_the_same_configuration(run_main):
    sets = [one for one in _SETS if one != "--set"]
    Path("again.yaml").write_text(run_main("config", "show", "--config", "run.yaml", *_SETS)[1])
    assert read_config("again.yaml") == read_config("run.yaml", sets)


def test_the_document_has_the_same_with_numbers_of_lines(run_main):
    found = json.loads(run_main("config", "show", "--config", "run.yaml", *_SETS, "--json")[1])
    by_key = {one["key"]: one for one in found["settings"]}
    assert found["path"] == "run.yaml"
    assert by_key["trainer.seed"] == {"key": "trainer.seed", "value": 7, "source": "--set", "line": None}
    assert by_key["checkpointer.keep.best[1].count"] == {
        "key": "checkpointer.keep.best[1].count", "value": 2, "source": "file", "line": 7,
    }  # fmt: skip
    assert by_key["checkpointer.model_state_save_dir"]["source"] == "save_dir"
    assert by_key["module.args.rate"]["value"] == "inf"


def test_paths_in_the_working_directory_are_shown_relative_to_it(run_main, tmp_path):
    sets = ["--set", f"checkpointer.save_dir={tmp_path}/here", "--set", "checkpointer.load_dir=/elsewhere/x"]
    out = run_main("config", "show", "--config", "run.yaml", *sets)[1]
    assert "  save_dir: here " in out
    assert "  load_dir: /elsewhere/x " in out
    Path("bare.yaml").write_text("module: {name: spiral}")
    assert "  save_dir: checkpoints  " in run_main("config", "show", "--config", "bare.yaml")[1]


def test_a_wrong_file_is_refused_with_all_its_faults_as_by_train(run_main):
    Path("run.yaml").write_text("module: {name: spiral, arm: 2}\ntrainer: {epochs: two}\n")
    code, out, err = run_main("config", "show", "--config", "run.yaml")
    assert (code, out) == (2, "")
    assert err == run_main("train", "--config", "run.yaml")[2]
    assert len(err.splitlines()) == 2


def test_hostile_names_and_values_reach_no_terminal(run_main):
    name = "\x1b[31m\u202e.yaml"
    evil = json.dumps("\x1b]0;owned\x07\u202e\x7f")
    Path(name).write_text(f'module: {{name: "a:B", args: {{{evil}: {evil}}}}}')
    code, out, _ = run_main("config", "show", "--config", name)
    assert code == 0
    assert out.replace("\n", "").isprintable()
    assert out.isascii()


def test_without_a_command_it_points_to_its_help(run_main):
    code, out, err = run_main("config")
    assert (code, out) == (2, "")
    assert err == "error: Missing command.\nhint: marlin-ckpt config --help\n"


def test_the_schema_is_printed_or_written_to_a_new_file(run_main):
    code, out, _ = run_main("config", "schema")
    assert (code, json.loads(out)) == (0, schema())
    code, printed, err = run_main("config", "schema", "-o", "s.json")
    assert (code, printed, err) == (0, "", "wrote s.json\n")
    assert Path("s.json").read_text() == out
    assert run_main("config", "schema", "-o", "s.json")[0] == 1
    assert run_main("config", "schema", "-o", "s.json", "--force")[0] == 0
    assert run_main("config", "schema", "-o", "none/s.json")[0] == 1
    assert visible(".") == ["run.yaml", "s.json"]


@pytest.mark.parametrize("name", schemas.names())
def test_the_schema_of_each_document_is_printed_as_the_package_has_it(run_main, name):
    code, out, _ = run_main("config", "schema", "--document", name)
    assert (code, out) == (0, (Path(schemas.DIRECTORY) / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(json.loads(out))


def test_a_document_that_no_command_prints_is_refused_with_a_near_name(run_main):
    code, out, err = run_main("config", "schema", "--document", "lst")
    assert (code, out) == (2, "")
    assert "did you mean list?" in err
    assert "there are advise, average, " in run_main("config", "schema", "--document", "zzzzz")[2]
    assert os.listdir() == ["run.yaml"]
