"""What Accelerate and Lightning save is read as one checkpoint, with the weights that were trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from marlin_ckpt.cli.main import main
from marlin_ckpt.operations import one
from tests.support.foreign import real_accelerate, real_lightning
from tests.support.foreign.made import Made

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are theirs

REAL: dict[str, tuple[Callable[[Path], Made], str]] = {  # with the name of the state of its weights
    "accelerate": (real_accelerate.make_accelerate, ""),
    "accelerate-bin": (real_accelerate.make_accelerate_bin, ""),
    "accelerate-named": (real_accelerate.make_accelerate_named, ""),
    "accelerate-of-two": (real_accelerate.make_accelerate_of_two, ""),
    "lightning": (real_lightning.make_lightning, "state_dict."),
    "lightning-sharded": (real_lightning.make_lightning_sharded, "state_dict."),
}


@pytest.mark.parametrize("name", REAL)
def test_the_weights_that_export_writes_are_those_that_were_trained(name: str, tmp_path: Path) -> None:
    make, state = REAL[name]
    made, target = make(tmp_path), tmp_path / "weights.safetensors"
    assert not one.verify(made.path).status.is_bad
    assert main(["export", str(made.path), "--output", str(target)]) == 0
    found = load_file(target)
    wanted = {key: value for key, value in made.weights.items() if not key.startswith("model_1.")}
    assert {state + key for key in found} == set(wanted)
    assert all(torch.equal(found[key.removeprefix(state)], value) for key, value in wanted.items())
