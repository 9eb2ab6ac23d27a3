"""The plugin for Lightning's Trainer and for Fabric, with the real packages."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import logging
import os
import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch

from marlin_ckpt import CorruptCheckpointError
from marlin_ckpt.directory import catalog
from marlin_ckpt.errors import UnsavableStateError
from marlin_ckpt.formats.inspection import inspect as look

pytestmark = pytest.mark.filterwarnings("ignore:::lightning", "ignore:::pytorch_lightning", "ignore:::torch")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning
    from lightning.fabric.plugins import TorchCheckpointIO
    from lightning.pytorch.callbacks import ModelCheckpoint

    from marlin_ckpt.integrations import lightning_private
    from marlin_ckpt.integrations.lightning import MarlinCheckpointIO
    from tests.support.checkpoint_directories import listed
    from tests.support.lightning_runs import Net, batches, quieten, trainer_for

MODES = pytest.mark.parametrize("async_save", [False, True])


@pytest.fixture(autouse=True)
def quiet():
    quieten()


def names(directory):
    return listed(directory)


def manifest(path):
    return look(catalog.entry(path)).manifest


def fitted(directory, *, async_save=False, steps=14, ckpt_path=None, **options):
    trainer, net = (
        trainer_for(str(directory), MarlinCheckpointIO(async_save=async_save), steps, **options),
        Net(),
    )
    trainer.fit(net, batches(), ckpt_path=ckpt_path)
    return trainer, net


def are_equal(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@MODES
@pytest.mark.parametrize("save_last", [True, "link", None])
def test_the_best_files_and_the_last_are_kept_with_what_is_monitored_in_their_manifests(
    tmp_path, async_save, save_last
):
    trainer, _ = fitted(tmp_path, async_save=async_save, save_top_k=2, save_last=save_last)
    callback = trainer.checkpoint_callback
    best = sorted(os.path.basename(path) for path in callback.best_k_models)
    assert names(tmp_path) == [*best, *(["last.ckpt"] if save_last else [])]
    for path, score in callback.best_k_models.items():
        found = manifest(path)
        assert (found.metrics, found.index) == (
            {"loss": float(score)},
            int(re.search(r"step=(\d+)", path)[1]),
        )
    last = tmp_path / "last.ckpt"
    assert last.is_symlink() == (save_last == "link")
    if save_last:
        assert torch.load(last)["global_step"] == manifest(last).index
        if save_last == "link":
            assert os.readlink(last) in best


@MODES
@pytest.mark.parametrize("save_last", [True, "link"])
def test_the_last_file_is_there_before_and_after_each_call_that_changes_the_directory(
    tmp_path, async_save, save_last, monkeypatch
):
    seen = []

    def watched(call, *args, **kwargs):
        seen.append((tmp_path / "last.ckpt").exists())
        call(*args, **kwargs)
        seen.append((tmp_path / "last.ckpt").exists())

    for name in ("remove", "rename", "replace", "symlink", "unlink"):
        monkeypatch.setattr(os, name, functools.partial(watched, getattr(os, name)))
    fitted(tmp_path, async_save=async_save, save_last=save_last)
    assert len(seen) > 20
    assert all(seen[seen.index(True) :])


def test_a_last_file_of_another_step_than_the_best_has_no_score_of_that(tmp_path):
    fitted(tmp_path, save_last=True, monitor="loss", mode="max", save_top_k=1)
    (best,) = tmp_path.glob("epoch*")
    ours, last = manifest(best), manifest(tmp_path / "last.ckpt")
    assert ours.metrics != {}
    assert last.metrics == (ours.metrics if last.index == ours.index else {})


@MODES
def test_a_training_goes_on_from_its_last_checkpoint_as_one_that_was_not_interrupted(tmp_path, async_save):
    _, whole = fitted(tmp_path / "whole", save_last=True)
    fitted(tmp_path / "two", steps=8, async_save=async_save, save_last="link")
    trainer, net = fitted(tmp_path / "two", async_save=async_save, save_last="link", ckpt_path="last")
    assert (trainer.global_step, are_equal(net, whole)) == (14, True)
    runs = {manifest(path).run_id for path in (tmp_path / "two").glob("*.ckpt")}
    assert len(runs) == 1  # the resumed run is the same run


@MODES
def test_a_training_goes_on_from_the_best_from_a_path_and_from_a_directory(tmp_path, async_save):
    trainer, _ = fitted(tmp_path, async_save=async_save, save_top_k=-1)
    best = trainer.checkpoint_callback.best_model_path
    for ckpt_path in (best, Path(best)):
        _, again = fitted(tmp_path, steps=torch.load(best)["global_step"], ckpt_path=ckpt_path)
        assert are_equal(again, Net.load_from_checkpoint(best))
    newest, _ = fitted(tmp_path, steps=12, ckpt_path=str(tmp_path))
    assert newest.global_step == 14


@MODES
def test_what_is_saved_after_a_training_is_there_at_once_for_lightnings_own_readers(tmp_path, async_save):
    trainer, net = fitted(tmp_path, async_save=async_save)
    trainer.save_checkpoint(tmp_path / "final.ckpt")
    assert are_equal(Net.load_from_checkpoint(tmp_path / "final.ckpt"), net)
    assert (
        TorchCheckpointIO().load_checkpoint(tmp_path / "final.ckpt", weights_only=True)["global_step"] == 14
    )


def test_a_module_among_the_hyperparameters_is_saved_as_lightning_does(tmp_path):
    checkpoint = {"hyper_parameters": {"backbone": torch.nn.Linear(2, 2)}}
    plugin = MarlinCheckpointIO()
    plugin.save_checkpoint(checkpoint, tmp_path / "one.ckpt")
    found = plugin.load_checkpoint(tmp_path / "one.ckpt", weights_only=False)
    assert isinstance(found["hyper_parameters"]["backbone"], torch.nn.Linear)


def test_files_by_lightning_itself_are_loaded_and_those_that_are_missing_are_no_files(tmp_path):
    TorchCheckpointIO().save_checkpoint({"a": torch.arange(3)}, tmp_path / "one.ckpt")
    assert torch.equal(MarlinCheckpointIO().load_checkpoint(tmp_path / "one.ckpt")["a"], torch.arange(3))
    with pytest.raises(FileNotFoundError):
        MarlinCheckpointIO().load_checkpoint(tmp_path / "none.ckpt")


def damage(path):
    data = bytearray(path.read_bytes())
    at = data.index(b"layers") if b"layers" in data else len(data) // 2
    data[at] ^= 1
    path.write_bytes(data)


def test_a_damaged_file_is_refused_and_the_newest_intact_one_named(tmp_path):
    trainer, _ = fitted(tmp_path, save_top_k=-1)
    best = Path(trainer.checkpoint_callback.best_model_path)
    damage(best)
    with pytest.raises(CorruptCheckpointError) as caught:
        fitted(tmp_path, ckpt_path=str(best))
    assert "the newest intact checkpoint is " in caught.value.hint
    assert best.name not in caught.value.hint


@pytest.mark.parametrize("save_last", [True, "link"])
def test_in_place_of_a_damaged_last_file_the_newest_intact_one_is_loaded(tmp_path, save_last, caplog):
    _, whole = fitted(tmp_path / "whole")
    fitted(tmp_path / "two", steps=8, save_last=save_last, save_top_k=-1)
    damage(tmp_path / "two" / "last.ckpt")
    with caplog.at_level(logging.WARNING, "marlin_ckpt"):
        _, net = fitted(tmp_path / "two", save_last=save_last, ckpt_path="last", save_top_k=-1)
    assert are_equal(net, whole)
    loaded = "epoch=1-step=6.ckpt" if save_last == "link" else "epoch=1-step=8.ckpt"
    assert f"{loaded} is loaded in its place" in caplog.text


@pytest.mark.parametrize(("name", "is_replaced"), [("last-v1.ckpt", True), ("lasting_step=7.ckpt", False)])
def test_only_a_file_that_modelcheckpoint_names_the_last_is_replaced(tmp_path, name, is_replaced):
    plugin = MarlinCheckpointIO()
    for one in (name, "epoch=0-step=1.ckpt"):
        plugin.save_checkpoint({"layers": torch.ones(99)}, tmp_path / one)
    damage(tmp_path / name)
    with contextlib.nullcontext() if is_replaced else pytest.raises(CorruptCheckpointError):
        assert torch.equal(plugin.load_checkpoint(tmp_path / name)["layers"], torch.ones(99))


def test_nothing_is_loaded_in_place_of_a_damaged_file_without_an_intact_one(tmp_path):
    MarlinCheckpointIO().save_checkpoint({"layers": torch.ones(99)}, tmp_path / "last.ckpt")
    damage(tmp_path / "last.ckpt")
    with pytest.raises(CorruptCheckpointError):
        MarlinCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


@MODES
def test_a_save_that_fails_ends_the_training_and_leaves_the_file_before(tmp_path, async_save):
    class Breaking(Net):
        def on_save_checkpoint(self, checkpoint):
            checkpoint["bad"] = (lambda: 0) if self.trainer.global_step > 4 else 1

    trainer = trainer_for(str(tmp_path), MarlinCheckpointIO(async_save=async_save), save_last="link")
    with pytest.raises(UnsavableStateError):
        trainer.fit(Breaking(), batches())
    assert names(tmp_path) == ["epoch=0-step=4.ckpt", "last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt")["global_step"] == 4


def test_paths_of_remote_file_systems_are_left_to_lightning_with_one_warning(caplog):
    plugin, path = MarlinCheckpointIO(), "memory://checkpoints/one.ckpt"
    with caplog.at_level(logging.WARNING, "marlin_ckpt"):
        plugin.save_checkpoint({"a": 1}, path)
        assert plugin.load_checkpoint(path) == {"a": 1}
        plugin.remove_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        plugin.load_checkpoint(path)
    assert [one.message for one in caplog.records] == [
        f"{path} is not a local path: left to Lightning, without checksums."
    ]


def test_options_for_a_storage_are_refused_as_by_lightnings_plugin(tmp_path):
    with pytest.raises(TypeError, match="storage_options"):
        MarlinCheckpointIO().save_checkpoint({}, tmp_path / "one.ckpt", storage_options={})


def test_it_is_pickled_for_processes_that_are_spawned(tmp_path):
    plugin = pickle.loads(pickle.dumps(MarlinCheckpointIO(async_save=True, overlap=False)))
    plugin.save_checkpoint({"a": 1}, tmp_path / "one.ckpt")  # outside of a training: durable at once
    assert torch.load(tmp_path / "one.ckpt") == {"a": 1}


@MODES
def test_fabric_saves_and_loads(tmp_path, async_save):
    plugin = MarlinCheckpointIO(async_save=async_save)
    fabric = lightning.Fabric(accelerator="cpu", plugins=plugin)
    model = torch.nn.Linear(3, 2)
    model, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters()))
    for step in (1, 2):
        fabric.backward(model(torch.ones(3)).sum())
        optimizer.step()
        fabric.save(tmp_path / f"step={step}.ckpt", {"model": model, "optimizer": optimizer, "callbacks": []})
    plugin.teardown()
    saved = {name: one.clone() for name, one in model.state_dict().items()}
    optimizer.step()
    fabric.load(tmp_path / "step=2.ckpt", {"model": model, "optimizer": optimizer, "callbacks": []})
    assert all(torch.equal(one, saved[name]) for name, one in model.state_dict().items())
    assert manifest(tmp_path / "step=2.ckpt").index == 2


def test_the_trainer_of_the_other_package_takes_it_too(tmp_path):
    pl = importlib.import_module("pytorch_lightning")
    plugin = MarlinCheckpointIO(async_save=True)
    callback = pl.callbacks.ModelCheckpoint(tmp_path, save_last="link", every_n_train_steps=1)

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch, _):
            return self.layer(batch).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[callback], enable_model_summary=False, enable_progress_bar=False,
        logger=False, max_steps=2, plugins=[plugin], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Module(), batches())
    assert names(tmp_path) == ["epoch=0-step=2.ckpt", "last.ckpt"]
    assert manifest(tmp_path / "last.ckpt").index == 2


def test_what_is_replaced_of_lightning_is_what_this_version_has():
    theirs = inspect.unwrap(getattr(ModelCheckpoint, lightning_private.PRIVATE))
    assert [*inspect.signature(theirs).parameters] == ["trainer", "filepath", "linkpath"]
    assert isinstance(inspect.getattr_static(ModelCheckpoint, lightning_private.PRIVATE), staticmethod)
    calls = inspect.getsource(ModelCheckpoint._save_last_checkpoint)
    assert calls.count(f"self.{lightning_private.PRIVATE}(trainer, ") == 1
    ours = MarlinCheckpointIO
    for name in ("save_checkpoint", "load_checkpoint", "remove_checkpoint", "teardown"):
        wanted = [*inspect.signature(getattr(TorchCheckpointIO, name)).parameters]
        assert [*inspect.signature(getattr(ours, name)).parameters] == wanted
