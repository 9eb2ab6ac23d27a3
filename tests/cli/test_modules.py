"""`marlin-ckpt train` with a module of the user's own."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path

import pytest
import torch

from marlin_ckpt.cli.main import main

_MODULE = """
import torch
from torch.utils.data import DataLoader, TensorDataset

from marlin_ckpt import ModuleInterface


class Line(ModuleInterface):
    def __init__(self, width, slope=1.0):
        super().__init__()
        self.layer = torch.nn.Linear(1, width)
        self.data = TensorDataset(slope * torch.arange(8.0).reshape(8, 1))

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        return [torch.optim.SGD(self.parameters(), lr=1e-3)], []

    def get_train_dataloader(self, sampler, batch_size):
        return DataLoader(self.data, batch_size, sampler=sampler(self.data))

    def get_val_dataloaders(self, sampler, batch_size):
        return self.get_train_dataloader(sampler, batch_size)

    def train_step(self, global_step, batch, device):
        return self.layer(batch[0]).pow(2).mean()

    val_step = train_step
    get_metrics = lambda self: {"width": self.layer.out_features}


class WithoutInit(ModuleInterface):
    get_optimizers_schedulers = Line.get_optimizers_schedulers
    get_train_dataloader = Line.get_train_dataloader
    get_val_dataloaders = Line.get_val_dataloaders
    train_step = val_step = Line.train_step


class Unfinished(ModuleInterface):
    pass


class Failing(Line):
    def train_step(self, global_step, batch, device):
        raise self.problem


class Value(Failing):
    problem = ValueError("two\\nlines and \\x1b[31m")


class Pipe(Failing):
    problem = BrokenPipeError(32, "Broken pipe")


class End(Failing):
    problem = EOFError("the data ended early")


class Interrupt(Failing):
    problem = KeyboardInterrupt()


class Early(Line):
    def on_end_val_epoch(self, global_step, *outputs, key="default"):
        self.should_stop = True


class InInit(Line):
    def __init__(self, width):
        super().__init__(width)
        len(width)


not_a_class = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch) -> str:
    """The name of a user's module in the working directory, never imported before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MARLIN_CKPT_TRACEBACK", raising=False)
    # An installed command has its own folder at the head, not the one that it is called in.
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    name = f"own_{uuid.uuid4().hex}"
    Path(f"{name}.py").write_text(_MODULE)
    return name


@pytest.fixture
def train(capsys, module):
    def run(name: str, args: str = "{width: 2}", epochs: int = 1) -> tuple[int, str, str]:
        Path("own.yaml").write_text(
            f"module: {{name: '{name}', args: {args}}}\n"
            f"trainer: {{train_batch_size: 4, device: cpu, epochs: {epochs}}}\n"
            "checkpointer: {save_dir: saved, model_state_save_dir: null}\n"
        )
        code = main(["train", "--config", "own.yaml"])
        return code, *capsys.readouterr()

    return run


def test_a_users_module_is_imported_from_the_working_directory_and_given_its_args(train, module, capsys):
    code, _, err = train(f"{module}:Line", "{width: 3, slope: 0.5}")
    assert code == 0, err
    assert "saved saved/model_0.pt  " in err
    state = torch.load("saved/model_0.pt", weights_only=True)
    assert state["module_interface_state"]["layer.weight"].shape == (3, 1)
    main(["list", "saved", "--json"])
    (listed,) = json.loads(capsys.readouterr().out)["checkpoints"]
    assert listed["metrics"]["width"] == 3


def test_a_module_that_ends_its_run_early_ends_it_well_and_the_log_says_so(train, module):
    code, _, err = train(f"{module}:Early", epochs=9)
    assert code == 0
    assert "\nThe run ends after 1 of 9 epochs: the module has set should_stop.\n" in err
    assert Path("saved/model_0.pt").exists()


def test_a_module_in_a_package_of_the_working_directory_is_found(train, module):
    Path("models").mkdir()
    Path(f"{module}.py").rename(f"models/{module}.py")
    assert train(f"models.{module}:Line")[0] == 0
    sys.modules.pop("models")


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("no_such_module:Line", "{}", "module.name: cannot import no_such_module: No module named"),
        ("{module}.deeper:Line", "{}", "module.name: cannot import"),
        ("{module}:Lin", "{}", "module.name: {module} has no Lin"),
        ("{module}:not_a_class", "{}", "module.name: {module}:not_a_class is no ModuleInterface"),
        ("os:stat_result", "{}", "module.name: os:stat_result is no ModuleInterface"),
        ("{module}", "{}", "expected one of text, spiral or my_package.my_file:MyModule"),
        ("{module}:Unfinished", "{}", "abstract"),
        ("{module}:Line", "{}", "missing 1 required positional argument: 'width'"),
        ("{module}:Line", "{wdth: 2}", "unexpected keyword argument 'wdth'"),
        ("{module}:WithoutInit", "{width: 2}", "unexpected keyword argument 'width'"),
        ("{module}:Line", "{width: no}", "module.args.width"),
    ],
)
def test_a_module_that_cannot_be_made_exits_2_in_one_line_and_writes_nothing(train, module, name, args, says):
    code, out, err = train(name.format(module=module), args)
    assert (code, out, Path("saved").exists()) == (2, "", False)
    (problem,) = err.splitlines()
    assert problem.startswith("error: ")
    assert says.format(module=module) in problem


@pytest.mark.parametrize("content", ["import no_such_thing", "from os import no_such_name"])
def test_an_import_that_fails_inside_a_users_module_exits_2_and_names_what_is_missing(train, module, content):
    Path(f"{module}.py").write_text(content)
    code, _, err = train(f"{module}:Line")
    assert code == 2
    (problem,) = err.splitlines()
    assert problem.startswith(f"error: module.name: cannot import {module}: ")
    assert "no_such_" in problem


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Value", r"ValueError: two\nlines and \x1b[31m"),
        ("Pipe", "BrokenPipeError: [Errno 32] Broken pipe"),
        ("End", "EOFError: the data ended early"),
        ("InInit", "TypeError: object of type 'int' has no len()"),
    ],
)
def test_an_error_of_a_users_module_exits_1_in_one_line_with_its_place(train, module, name, says):
    code, out, err = train(f"{module}:{name}")
    assert (code, out) == (1, "")
    problem, hint = err.splitlines()
    assert problem.startswith(f"error: {says}: ")
    assert f"{module}.py:" in problem
    assert hint == "hint: MARLIN_CKPT_TRACEBACK=1 in the environment shows where it came from"


def test_a_syntax_error_of_a_users_module_exits_2_and_names_its_file(train, module):
    Path(f"{module}.py").write_text("x = (\n")
    code, _, err = train(f"{module}:Line")
    assert code == 2
    assert err.startswith(f"error: module.name: cannot import {module}: ")
    assert f"{module}.py, line 1" in err
    assert len(err.splitlines()) == 1


def test_the_traceback_is_left_to_the_interpreter_for_those_who_ask_for_it(train, module, monkeypatch):
    monkeypatch.setenv("MARLIN_CKPT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="two") as caught:
        train(f"{module}:Value")
    assert any(Path(entry.path).name == f"{module}.py" for entry in caught.traceback)


def test_an_interruption_before_the_first_checkpoint_says_that_there_is_none(train, module):
    code, out, err = train(f"{module}:Interrupt")
    assert (code, out, err) == (130, "", "interrupted; last checkpoint: none\n")
