"""The metrics that Lightning and Ignite put into the names of their files are read from there."""

import pytest

from marlin_ckpt import grammars


@pytest.mark.parametrize(
    ("stem", "metrics"),
    [
        ("epoch=2-step=6-val_loss=0.12-v1", {"val_loss": 0.12}),
        ("epoch=02_val_loss=-0.5", {"val_loss": -0.5}),
        ("sample-mnist-epoch=1-val-loss=1e-05", {"val-loss": 1e-05}),
        ("val_loss=0.12-epoch=3", {"val_loss": 0.12}),
        ("epoch=1-acc=0.9-loss=0.1", {"acc": 0.9, "loss": 0.1}),
        ("best_model_300_val_loss=-0.2500", {"val_loss": -0.25}),
        ("epoch=1-loss=nan", {}),
        ("epoch=1-=3", {}),
        ("last-v1", {}),
        ("checkpoint-500", {}),
        ("loss=0.5", {}),  # nothing says that it is a checkpoint
        ("checkpoint_3", {}),
    ],
)
def test_a_metric_is_a_name_with_a_number(stem, metrics):
    assert grammars.metrics(stem) == metrics
