"""What a report says first."""

from __future__ import annotations

import json
import math
import re

import torch

from marlin_ckpt import CheckpointDirectory
from marlin_ckpt.cli.main import main
from marlin_ckpt.operations.report import banners


def test_the_checkpoint_before_a_nan_in_a_metric_has_none_in_its_tensors_either(tmp_path, capsys) -> None:
    with CheckpointDirectory(tmp_path / "runs", statistics=True) as checkpoints:
        for index, (weight, loss) in enumerate([(1.0, 0.5), (math.nan, 0.4), (math.nan, math.nan)]):
            checkpoints.save(
                {"model": {"layer.weight": torch.full((4,), weight)}}, index, metrics={"loss": loss}
            )
    assert main(["report", str(tmp_path / "runs"), "-o", str(tmp_path / "report.html")]) == 0
    said = capsys.readouterr().err
    assert "NaN or Inf since model_1.pt, in layer.weight. The last checkpoint without is model_0.pt." in said
    assert "Not finite since model_2.pt: loss. The last checkpoint without is model_0.pt." in said


def test_bytes_are_written_as_sizes(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(banners, "free_bytes", lambda _: 1_234)
    with CheckpointDirectory(tmp_path / "runs") as checkpoints:
        for index in range(2):
            checkpoints.save({"weight": torch.zeros(10_000)}, index)
    assert main(["report", str(tmp_path / "runs"), "--keep-last", "1", "--json"]) == 0
    said = " ".join(one["what"] for one in json.loads(capsys.readouterr().out)["banners"])
    size = r"4\d\.\d kB"
    assert re.search(rf"would remove 1 of 2 checkpoints and free {size}\.", said)
    assert re.search(rf"The disk has 1\.23 kB free; the newest checkpoints take {size} each\.", said)


def test_a_model_file_is_not_counted_as_a_checkpoint(
    tmp_path, capsys, make_checkpointer, make_checkpoint
) -> None:
    checkpointer = make_checkpointer()
    for index in range(2):
        checkpointer.save(make_checkpoint(loss=1.0), index)
    checkpointer.save_model({"weight": torch.ones(2)}, 1)
    page = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "checkpoints"), "-o", str(page)]) == 0
    assert ": 2 checkpoints, 1 model file, " in capsys.readouterr().err
    facts = '<dt>Checkpoints</dt><dd>2</dd><dd class="about">1 model file</dd>'
    assert facts in page.read_text()
