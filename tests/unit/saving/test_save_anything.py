"""`save`: any object, under exactly the name that is asked for."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple

import pytest
import torch

from marlin_ckpt import ArgumentsError, StorageError, save
from marlin_ckpt.directory import catalog
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.storage.local import moving, publishing
from tests.support.async_runs import Run
from tests.support.equality import is_same


def manifest_of(path: Any) -> Any:
    return inspect(catalog.entry(path)).manifest


def loaded(path: Any) -> Any:
    return torch.load(path, weights_only=True)


@pytest.fixture
def run():
    one = Run()
    one.step()
    return one


class Pair(NamedTuple):
    first: Any
    second: Any


def test_what_is_live_is_saved_by_its_state_at_any_depth(tmp_path, run):
    scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 2)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(run.optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    live = {
        "models": [run.module, (run.module[0], {"deep": [[OrderedDict(last=run.module[2])]]})],
        "rest": OrderedDict(optimizer=run.optimizer, schedulers=(scheduler, plateau), scaler=scaler),
        "epoch": 3,
    }
    save(live, tmp_path / "x.pt")
    found, state = loaded(tmp_path / "x.pt"), run.module.state_dict()
    assert is_same(found["models"][0], state)
    assert is_same(found["models"][1][0], run.module[0].state_dict())
    assert is_same(found["models"][1][1]["deep"][0][0]["last"], run.module[2].state_dict())
    assert is_same(found["rest"]["optimizer"], run.optimizer.state_dict())
    states = scheduler.state_dict(), plateau.state_dict()
    assert is_same(found["rest"]["schedulers"], states)
    assert is_same(found["rest"]["scaler"], scaler.state_dict())
    assert (type(found["rest"]), type(found["models"][1]), found["epoch"]) == (OrderedDict, tuple, 3)
    assert live["models"][0] is run.module  # what was given is as it was


def test_what_is_shared_is_shared_again_and_a_module_that_is_there_twice_is_written_once(tmp_path, run):
    part = [run.module]
    whole = {"part": part, "again": part, "module": run.module, "weight": run.module[0].weight}
    whole["itself"] = whole
    save(whole, tmp_path / "x.pt")
    found = torch.load(tmp_path / "x.pt", weights_only=False)
    assert found["part"] is found["again"]
    assert found["itself"] is found
    assert found["module"] is found["part"][0]
    assert found["weight"].data_ptr() == found["module"]["0.weight"].data_ptr()
    assert whole["part"] is part


def test_what_stands_in_other_containers_is_left_as_torch_saves_it(tmp_path):
    module = torch.nn.Linear(2, 2)
    others = {"named": Pair(module, 1), "default": defaultdict(list, model=module), "live": module}
    save(others, tmp_path / "x.pt")
    found = torch.load(tmp_path / "x.pt", weights_only=False)
    assert type(found["named"]) is Pair
    assert type(found["default"]) is defaultdict
    assert found["default"].default_factory is list
    assert type(found["named"].first) is type(found["default"]["model"]) is torch.nn.Linear
    assert is_same(found["live"], module.state_dict())


def test_a_module_alone_is_a_model_file_and_all_else_is_a_checkpoint(tmp_path, run):
    report = save(run.module, tmp_path / "x.pt")
    assert report.is_model
    assert manifest_of(tmp_path / "x.pt").kind == "model"
    assert is_same(loaded(tmp_path / "x.pt"), run.module.state_dict())
    assert not save(run.module.state_dict(), tmp_path / "x.pt").is_model
    assert manifest_of(tmp_path / "x.pt").kind == "checkpoint"


def test_the_manifest_has_the_metrics_the_index_and_the_names_of_the_optimizers_parameters(tmp_path, run):
    path = tmp_path / "x.pt"
    loss = torch.tensor(0.5, requires_grad=True)  # of which float() warns
    report = save({"model": run.module, "optimizer": run.optimizer}, path, metrics={"loss": loss}, index=7)
    manifest = manifest_of(path)
    assert (report.path, report.index, report.metrics) == (str(path), 7, {"loss": 0.5})
    assert report.size_bytes == path.stat().st_size
    assert (manifest.index, manifest.metrics) == (7, {"loss": 0.5})
    names = [f"model.{name}" for name, _ in run.module.named_parameters()]
    assert manifest.optimizers == {"optimizer": [names]}


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("step_7.pt", 7),
        ("model_7", 7),
        ("model_model_3.bin", 3),
        ("checkpoint-500", 500),
        ("checkpoint_3_500.pt", 500),
        ("epoch=2-step=6.ckpt", 6),
        ("epoch=2-step=6-val_loss=0.12.ckpt", 6),
        ("epoch=5-step=0.ckpt", 0),
        ("epoch=5.ckpt", 5),
        ("best_model_300_accuracy=0.98.pt", 300),
        ("last.ckpt", 0),
        ("weights.pt", 0),
        (".hidden", 0),
        ("名前_١.pt", 0),
    ],
)
def test_the_index_is_the_one_in_the_name_and_the_file_has_exactly_this_name(tmp_path, name, index):
    assert save({"a": 1}, tmp_path / "new" / "deep" / name).index == index
    assert os.listdir(tmp_path / "new" / "deep") == [name]
    assert manifest_of(tmp_path / "new" / "deep" / name).index == index


@pytest.mark.parametrize(
    "wrong",
    [{"index": -1}, {"index": "3"}, {"metrics": {"loss": "low"}}, {"metrics": {"loss": torch.ones(2)}}],
)
def test_a_wrong_index_or_metric_is_refused_before_anything_is_made(tmp_path, wrong):
    with pytest.raises(ArgumentsError):
        save({"a": 1}, tmp_path / "new" / "x.pt", **wrong)
    assert os.listdir(tmp_path) == []


def test_a_name_that_is_taken_is_refused_before_the_states_are_asked_for(tmp_path):
    class Asked(torch.nn.Module):
        def state_dict(self, *_: Any, **__: Any) -> Any:
            raise AssertionError

    path = tmp_path / "x.pt"
    path.write_bytes(b"mine")
    (tmp_path / "link").symlink_to("nowhere")
    for taken in (path, tmp_path / "link"):
        with pytest.raises(StorageError, match="a file of this name exists") as caught:
            save(Asked(), taken, overwrite=False)
        assert caught.value.errno == errno.EEXIST
        assert "overwrite=True" in caught.value.hint
    assert path.read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["link", "x.pt"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_appears_while_another_is_written_stays_where_overwriting_is_off(
    tmp_path, monkeypatch, has_links
):
    path, fsync = tmp_path / "x.pt", os.fsync

    def appears(fd):
        fsync(fd)
        path.exists() or path.write_bytes(b"another's")

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not has_links:
        monkeypatch.setattr(moving.os, "link", refused)
    monkeypatch.setattr(publishing.os, "fsync", appears)
    with pytest.raises(StorageError, match="a file of this name exists") as caught:
        save({"a": 1}, path, overwrite=False)
    assert caught.value.errno == errno.EEXIST
    assert path.read_bytes() == b"another's"
    monkeypatch.undo()
    if not has_links:
        monkeypatch.setattr(moving.os, "link", refused)
    save({"a": 2}, tmp_path / "y.pt", overwrite=False)
    assert loaded(tmp_path / "y.pt") == {"a": 2}
    assert sorted(os.listdir(tmp_path)) == ["x.pt", "y.pt"]


def test_nor_is_one_replaced_that_appears_at_the_last_moment(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"

    def late(call: Any) -> Any:
        def appears_first(*args: Any, **options: Any) -> Any:
            path.exists() or path.write_bytes(b"another's")
            return call(*args, **options)

        return appears_first

    for name in ("link", "rename"):
        monkeypatch.setattr(os, name, late(getattr(os, name)))
    with pytest.raises(StorageError, match="a file of this name exists"):
        save({"a": 1}, path, overwrite=False)
    assert path.read_bytes() == b"another's"
    assert os.listdir(tmp_path) == ["x.pt"]


def test_of_several_that_save_a_new_name_at_once_without_overwriting_one_succeeds(tmp_path):
    path, barrier, errors = tmp_path / "x.pt", threading.Barrier(8), []

    def saves(number: int) -> None:
        barrier.wait()
        try:
            save({"number": number}, path, overwrite=False)
        except StorageError as error:
            errors.append(error.errno)
        else:
            won.append(number)

    won: list[int] = []
    threads = [threading.Thread(target=saves, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert errors == [errno.EEXIST] * 7
    assert [loaded(path)["number"]] == won
    assert os.listdir(tmp_path) == ["x.pt"]


@pytest.mark.parametrize("name", ["", ".", "..", "/", "folder/", "folder", "new/", "new/.", "link"])
def test_what_is_no_file_name_or_a_directorys_is_refused_and_nothing_is_made(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with pytest.raises(StorageError) as caught:
        save({"a": 1}, name)
    assert caught.value.errno == errno.EISDIR
    assert name in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "folder") == []


def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path):
    # As root, `save(state, "/dev/null")` would leave the machine with a file of that name.
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(StorageError, match="no regular file") as caught:
            save({"a": 1}, tmp_path / name)
        assert caught.value.errno == errno.EINVAL
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_a_symbolic_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "there").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("there")
    save({"a": 1}, tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()
    assert loaded(tmp_path / "link") == {"a": 1}
    assert (tmp_path / "there").read_bytes() == b"mine"
