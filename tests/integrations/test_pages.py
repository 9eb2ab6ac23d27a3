"""The how-to pages: their code runs, their YAML is read, and what they lead to is there."""

from __future__ import annotations

import configparser
import re
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

import marlin_ckpt
from marlin_ckpt.config import read_config
from tests.support.pages import DOCS, HOW_TO, blocks, lines, page

# Their code needs the package that they are about: see the tests of each.
ADAPTERS = {"lightning", "transformers", "accelerate", "ignite"}
DIFFERENCES = [(name, place) for name in HOW_TO for place in range(len(blocks(name, "diff")))]
SHELL = [(name, place) for name in HOW_TO for place in range(len(blocks(name, "sh")))]
YAML = [(name, place) for name in HOW_TO for place in range(len(blocks(name, "yaml")))]


@pytest.mark.parametrize(("name", "place"), DIFFERENCES)
def test_a_diff_adds_two_to_five_lines(name, place):
    added = lines(blocks(name, "diff")[place], "+").strip()
    assert 2 <= len(added.splitlines()) <= 5


@pytest.mark.parametrize("name", HOW_TO)
def test_a_page_says_what_it_does_not_do_and_its_links_lead_to_files_that_are_there(name):
    text = page(name)
    assert name == "ci" or "\n## What it does not do\n" in text
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (DOCS / "how-to" / link).is_file(), link


def test_the_pages_of_adapters_have_one_skeleton():
    titles = ["What changes in your code", "What you get", "Killed and resumed", "What it does not do"]
    for name in ADAPTERS:
        assert re.findall(r"^## (.+)$", page(name), re.MULTILINE) == titles
        assert f"'.[{name}]'" in page(name)
        assert f"examples/with_{name}.py" in page(name)


def test_the_index_says_what_each_page_answers():
    text = (DOCS / "how-to" / "index.md").read_text()
    assert sorted(re.findall(r"^\| \[.+\]\((.+)\.md\) \| .+\? \|$", text, re.MULTILINE)) == HOW_TO
    assert sorted(re.findall(r"^([\w-]+)$", text, re.MULTILINE)) == HOW_TO  # the table of contents


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # one process saves without it
@pytest.mark.parametrize("name", sorted({*HOW_TO} - ADAPTERS))
def test_the_python_of_a_page_runs(name, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request):
    if name == "object-storage":
        request.getfixturevalue("s3")  # the server that its bucket is on
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"__name__": name}
    for block in blocks(name, "python"):
        # The whole training is killed in a test of its own; what needs the files of the tour is run there.
        if "signal.signal" not in block and "checkpoints/quickstart" not in block:
            exec(compile(block, f"{name}.md", "exec"), given)


def test_the_page_on_rescuing_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    block = blocks("rescue", "python")[-1]
    exec(block, {})
    assert capsys.readouterr().out.strip() == block.rpartition("# ")[2].strip()


def test_the_page_on_looking_inside_prints_which_parameter_each_number_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    block, statistics = blocks("look-inside", "python")
    exec(block, {})
    said = dict(line.split() for line in capsys.readouterr().out.splitlines())
    names = ["model.0.weight", "model.1.weight", "model.0.bias", "model.1.bias"]
    assert said == {f"optimizer.state.{number}": name for number, name in enumerate(names)}
    assert dict(re.findall(r"(optimizer\.state\.\d) is ([\w.]+)", block)).items() < said.items()
    exec(statistics, {})


def test_the_compiled_loop_of_the_page_goes_on_from_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training, resuming = blocks("compile", "python")
    given: dict[str, Any] = {}
    exec(training, given)
    assert marlin_ckpt.inspect("last.pt").manifest.index == 10
    exec(resuming, given)
    assert given["step"] == 10
    assert given["saver"].run_id == marlin_ckpt.inspect("last.pt").manifest.run_id


@pytest.mark.parametrize(
    ("name", "place"), [one for one in DIFFERENCES if one[0] in ("own-loop", "compile", "trackers")]
)
def test_the_lines_that_are_added_run_and_save(name, place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(2, 2)
    uploaded: list[str] = []
    tracker = SimpleNamespace(
        log_artifact=lambda path, **_: uploaded.append(path), info=SimpleNamespace(run_id="run")
    )
    given: dict[str, Any] = {
        "model": model, "optimizer": torch.optim.AdamW(model.parameters()), "step": 3, "loss": 0.5,
        "path": "saved.pt", "state": {"step": 3}, "run": tracker, "mlflow": tracker,
    }  # fmt: skip
    difference = blocks(name, "diff")[place]
    exec(lines(difference, "+"), given)
    if "saver" in given:
        given["saver"].close()
        assert Path("saved.pt").is_file()
    else:
        assert given["found"]["step"] == 3
    assert uploaded == (["saved.pt"] if "on_durable" in difference else [])


def test_the_lines_that_move_a_program_from_pymarlin_import_what_it_had():
    (difference,) = blocks("pymarlin", "diff")
    given: dict[str, Any] = {}
    exec(lines(difference, "+"), given)
    wanted = re.findall(r"\b[A-Z]\w+", lines(difference, "-"))
    assert sorted(wanted) == sorted(given.keys() - {"__builtins__"})


@pytest.mark.parametrize(("name", "place"), YAML)
def test_the_yaml_of_a_page_is_read(name, place, tmp_path: Path):
    text = blocks(name, "yaml")[place]
    found = yaml.safe_load(text)
    if found is None:  # the comment for editors, which names the schema that `init` writes
        assert re.fullmatch(r"# yaml-language-server: \$schema=marlin-ckpt\.schema\.json\n", text)
    elif found.keys() & {"module", "trainer", "checkpointer"}:
        file = tmp_path / "run.yaml"
        file.write_text(text if "module" in found else f"module: {{name: spiral}}\n{text}")
        read_config(file)
    elif name == "clusters":
        (container,) = found["spec"]["template"]["spec"]["containers"]
        assert " ".join(container["command"]) == blocks(name, "sh")[0].strip()
        rule = found["spec"]["podFailurePolicy"]["rules"][0]
        assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2, 3, 4])
    else:
        commands = [step["run"] for step in found["jobs"]["train"]["steps"] if "run" in step]
        after = ["marlin-ckpt report checkpoints/ci -o report.html"] if name == "report" else []
        assert commands[1:] == ["sh ci.sh configs/ci.yaml checkpoints/ci", *after]


@pytest.mark.parametrize(("name", "place"), SHELL)
def test_a_shell_can_read_the_scripts_of_a_page(name, place):
    subprocess.run(["sh", "-n"], input=blocks(name, "sh")[place], text=True, check=True, timeout=60)


def test_systemd_starts_the_command_of_the_page_and_does_not_repeat_a_wrong_configuration():
    (unit,) = blocks("clusters", "ini")
    parser = configparser.ConfigParser()
    parser.read_string(unit)
    assert parser["Service"]["ExecStart"].endswith(blocks("clusters", "sh")[0].strip())
    assert parser["Service"]["RestartPreventExitStatus"] == "2 3 4"
    assert parser["Service"]["SuccessExitStatus"].split() == [
        str(128 + one) for one in (signal.SIGINT, signal.SIGTERM)
    ]
