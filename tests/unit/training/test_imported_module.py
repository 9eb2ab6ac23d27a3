"""`module.name: my_package.my_file:MyModule`, a module of the user's own."""

from __future__ import annotations

import json
import sys

import pytest

from marlin_ckpt.cli.main import main
from tests.support.folders import visible

SOURCE = """\
import torch
from torch.utils.data import DataLoader

from marlin_ckpt import ModuleInterface


class Base(ModuleInterface):
    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        return [torch.optim.SGD([self.weight], lr=0.1)], []

    def get_train_dataloader(self, sampler, batch_size):
        return DataLoader(torch.ones(4), batch_size)

    def get_val_dataloaders(self, sampler, batch_size):
        return DataLoader(torch.ones(4), batch_size)

    def train_step(self, global_step, batch, device):
        return (batch * self.weight).square().mean()

    def val_step(self, global_step, batch, device):
        return self.train_step(global_step, batch, device)


class Mine(Base):
    def __init__(self, start=1.0, *, labels=()):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(start))
        self.labels = labels

    def get_metrics(self):
        return {"weight": self.weight.item(), "labels": len(self.labels)}


class WithoutInit(Base):
    weight = torch.nn.Parameter(torch.tensor(1.0))


class Broken(Base):
    def __init__(self):
        super().__init__()
        len(5)


class Abstract(ModuleInterface):
    pass


class Stranger:
    pass


def function():
    pass
"""


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Trains a module of a package that lies in the working directory."""
    package = "users_own_package"
    (tmp_path / package).mkdir()
    (tmp_path / package / "models.py").write_text(SOURCE)
    (tmp_path / package / "needs_more.py").write_text("import a_package_that_is_not_there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(name: str, args: str = "{}", *options: str) -> tuple[int, str, str]:
        module = f"module:\n  name: {package}.{name}\n  args: {args}\n"
        (tmp_path / "run.yaml").write_text(module + "trainer: {train_batch_size: 4, device: cpu}\n")
        code = main(["train", "--config", "run.yaml", *options])
        return (code, *capsys.readouterr())

    yield run
    for loaded in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[loaded]


def test_a_module_in_the_working_directory_trains_with_its_arguments(train, tmp_path):
    code, out, _ = train("models:Mine", "{start: 0.5, labels: [a, b]}", "--json")
    assert code == 0
    metrics = json.loads(out)["metrics"]
    assert metrics["train_loss"] == pytest.approx(0.25)
    assert metrics["weight"] == pytest.approx(0.4)
    assert metrics["labels"] == 2
    assert visible(tmp_path / "checkpoints") == [
        "model_0.pt",
        "model_model_0.pt",
    ]


@pytest.mark.parametrize(
    ("name", "args", "parts"),
    [
        ("models:Missing", "{}", ["module.name", "users_own_package.models has no Missing"]),
        ("models:Stranger", "{}", ["module.name", "no ModuleInterface"]),
        ("models:function", "{}", ["module.name", "no ModuleInterface"]),
        ("absent:Mine", "{}", ["module.name", "cannot import users_own_package.absent"]),
        ("needs_more:Mine", "{}", ["module.name", "a_package_that_is_not_there"]),
        ("models:Mine", "{end: 1}", ["module.args", "users_own_package.models:Mine", "'end'"]),
        ("models:WithoutInit", "{end: 1}", ["module.args", "users_own_package.models:WithoutInit", "'end'"]),
        ("models:Abstract", "{}", ["Abstract", "abstract methods"]),
    ],
)
def test_a_module_that_cannot_be_made_is_an_error_of_the_configuration_that_says_why(
    train, name, args, parts
):
    code, out, err = train(name, args)
    assert (code, out) == (2, "")
    (message,) = err.splitlines()
    assert message.startswith("error: ")
    assert all(part in message for part in parts), message


def test_an_error_inside_the_users_module_fails_the_run_and_says_where(train):
    code, _, err = train("models:Broken")
    assert code == 1
    assert "object of type 'int' has no len()" in err
    assert "models.py:" in err
    assert "Traceback" not in err
