"""`show` reads what the real packages write. `make test-peers` installs them and runs this."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from .looking import looked_into, show

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are theirs


def data() -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(torch.randn(4, 3), batch_size=2)


@pytest.fixture
def lightning(tmp_path) -> Path:
    """A checkpoint of pytorch-lightning's Trainer after one step."""
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self, width: int = 8, rate: float = 0.01) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layers = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 1))

        def training_step(self, batch, number):
            return self.layers(batch).square().mean()

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.rate)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path,
        enable_model_summary=False, callbacks=[pl.callbacks.ModelCheckpoint(tmp_path, monitor=None)],
    )  # fmt: skip
    trainer.fit(Module(), data())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    return tmp_path / "one.ckpt"


def test_a_checkpoint_of_lightning_is_shown(lightning):
    told = looked_into(lightning)
    assert "state_dict.layers.0.weight" in {one["name"] for one in told["tensors"]}
    (optimizer,) = told["optimizers"]
    assert (optimizer["name"], optimizer["kind"]) == ("optimizer_states[0]", "AdamW")
    assert optimizer["groups"][0]["lr"] in (0.01, pytest.approx(0.001))
    assert told["values"]["global_step"] == 1
    assert told["values"]["hyper_parameters.width"] == 8
    assert "optimizer_states[0]: AdamW" in show(lightning)


@pytest.fixture
def output(tmp_path) -> Path:
    """The folder of a checkpoint of transformers' Trainer after one step."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=3, n_head=2))
    examples = [{"input_ids": list(range(8)), "labels": list(range(8))}] * 4
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, save_steps=1, report_to=[], use_cpu=True, disable_tqdm=True,
        per_device_train_batch_size=2,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=examples).train()
    return tmp_path / "checkpoint-1"


def test_the_folder_of_a_trainer_of_transformers_is_shown(output):
    names = {path.name for path in output.iterdir()}
    assert {
        "model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "training_args.bin",
    } <= names
    weights = looked_into(output / "model.safetensors")
    assert weights["format"] == "safetensors"
    assert weights["values"] == {"__metadata__.format": "pt"}
    assert "h.0-2 " in show(output / "model.safetensors")
    (optimizer,) = looked_into(output / "optimizer.pt")["optimizers"]
    assert optimizer["kind"] == "AdamW"
    assert looked_into(output / "scheduler.pt")["values"]["last_epoch"] == 1
    looked_into(output / "rng_state.pth")
    arguments = looked_into(output / "training_args.bin")
    assert "transformers.training_args.TrainingArguments" in {one["name"] for one in arguments["imports"]}
    assert arguments["values"]["max_steps"] == 1


def test_the_code_that_show_gives_loads_what_weights_only_refuses(output, lightning):
    for path in (output / "training_args.bin", output / "rng_state.pth", lightning):
        code = json.loads(show(path, "--json"))["allow_list"]
        if code is None:
            torch.load(path, weights_only=True)
        else:
            with pytest.raises(Exception, match="Weights only load failed"):
                torch.load(path, weights_only=True)
            exec(code, {})


def test_a_checkpoint_of_ignite_is_shown(tmp_path):
    from ignite.engine import Engine, Events
    from ignite.handlers import Checkpoint, DiskSaver

    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(_, batch):
        optimizer.zero_grad()
        model(batch).sum().backward()
        optimizer.step()

    engine = Engine(step)
    parts = {"model": model, "optimizer": optimizer, "trainer": engine}
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, Checkpoint(parts, DiskSaver(tmp_path / "ignite", create_dir=True))
    )
    engine.run(data(), max_epochs=1)
    (path,) = (tmp_path / "ignite").iterdir()
    told = looked_into(path)
    assert {"model.weight", "model.bias"} <= {one["name"] for one in told["tensors"]}
    assert [(one["name"], one["kind"]) for one in told["optimizers"]] == [("optimizer", "SGD")]
    assert told["values"]["trainer.iteration"] == 2


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickled"])
def test_a_state_of_accelerate_is_shown(tmp_path, safe):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    accelerator.save_state(str(tmp_path / "state"), safe_serialization=safe)
    paths = {path.name: path for path in (tmp_path / "state").iterdir()}
    told = {name: looked_into(path) for name, path in paths.items()}
    weights = told["model.safetensors" if safe else "pytorch_model.bin"]
    assert {one["name"] for one in weights["tensors"]} == {"weight", "bias"}
    assert told["optimizer.bin"]["optimizers"][0]["kind"] == "Adam"
    assert {"scheduler.bin", "random_states_0.pkl"} <= {*told}
