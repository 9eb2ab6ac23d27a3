"""Saves that leave live objects as they are, for packages that pickle modules among their settings."""

from __future__ import annotations

import torch

from marlin_ckpt import Saver


def test_a_module_is_saved_as_torch_save_does_where_that_is_asked_for(tmp_path):
    whole = {"settings": {"backbone": torch.nn.Linear(2, 3)}, "step": 4}
    with Saver(as_is=True) as saver:
        saver.save(whole, tmp_path / "one.pt")
    found = torch.load(tmp_path / "one.pt", weights_only=False)
    assert isinstance(found["settings"]["backbone"], torch.nn.Linear)
    assert torch.equal(found["settings"]["backbone"].weight, whole["settings"]["backbone"].weight)
    assert found["step"] == 4
