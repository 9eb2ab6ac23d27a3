"""What a report says first."""

from __future__ import annotations

import math

import torch

from marlin_ckpt import CheckpointDirectory
from marlin_ckpt.cli.main import main


def test_the_checkpoint_before_a_nan_in_a_metric_has_none_in_its_tensors_either(tmp_path, capsys) -> None:
    with CheckpointDirectory(tmp_path / "runs", statistics=True) as checkpoints:
        for index, (weight, loss) in enumerate([(1.0, 0.5), (math.nan, 0.4), (math.nan, math.nan)]):
            checkpoints.save(
                {"model": {"layer.weight": torch.full((4,), weight)}}, index, metrics={"loss": loss}
            )
    assert main(["report", str(tmp_path / "runs"), "-o", str(tmp_path / "report.html")]) == 0
    said = capsys.readouterr().err
    assert "NaN or Inf since model_1.pt, in layer.weight. The last checkpoint without is model_0.pt." in said
    assert "Not finite since model_2.pt: loss. The last checkpoint before that is model_0.pt." in said
