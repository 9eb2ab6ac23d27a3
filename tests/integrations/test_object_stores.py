"""What the adapters do with the URL of an object store: save there, or say at once that they do not."""

from __future__ import annotations

import pytest
import torch

from marlin_ckpt.directory import catalog
from marlin_ckpt.errors import StorageError
from marlin_ckpt.formats.inspection import inspect

URL = "s3://bucket/run"
pytestmark = pytest.mark.filterwarnings("ignore")


def test_lightnings_plugin_saves_loads_and_removes_objects(s3: str):
    from marlin_ckpt.integrations.lightning import MarlinCheckpointIO

    plugin = MarlinCheckpointIO(async_save=True)
    paths = [f"{s3}/epoch={number}-step={number}.ckpt" for number in range(2)]
    for step, path in enumerate(paths):
        weights = {"w": torch.full((2,), float(step))}
        plugin.save_checkpoint({"global_step": step, "state_dict": weights}, path)
    plugin.remove_checkpoint(paths[0])
    assert plugin.load_checkpoint(paths[1])["state_dict"]["w"].tolist() == [1.0, 1.0]
    plugin.teardown()
    assert [one.path for one in catalog.find(s3, extension="ckpt", foreign=True)] == [paths[1]]
    assert inspect(catalog.entry(paths[1])).manifest.index == 1


def test_ignites_handler_refuses_a_bucket():
    from marlin_ckpt.integrations.ignite import MarlinSaver

    with pytest.raises(StorageError, match="the files of Ignite are not kept in object stores"):
        MarlinSaver(URL)


def test_accelerates_adapter_refuses_a_bucket(tmp_path, monkeypatch):
    from accelerate import Accelerator

    from marlin_ckpt.integrations.accelerate import protect

    monkeypatch.chdir(tmp_path)
    accelerator = protect(Accelerator(cpu=True))
    with pytest.raises(StorageError, match="the folders of Accelerate are not kept in object stores"):
        accelerator.save_state(URL)
    assert list(tmp_path.iterdir()) == []


def test_transformers_adapter_refuses_a_bucket_before_the_training(tmp_path, monkeypatch):
    from marlin_ckpt.integrations.transformers import protect
    from tests.support.trainer_runs import trainer

    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="the folders of Transformers are not kept in object stores"):
        protect(trainer(URL))
