"""`show` marks what unpickling a file would import, and says how to load what is harmless."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


def unsafe(tmp_path: Path) -> Path:
    state = {
        "hyper_parameters": argparse.Namespace(lr=0.1), "float": np.float64(1.5),
        "array": np.arange(3, dtype="i4"), "when": np.datetime64("2026-01-02"),
        "path": Path("x"), "weights": torch.ones(2),
    }  # fmt: skip
    torch.save(state, tmp_path / "unsafe.ckpt")
    return tmp_path / "unsafe.ckpt"


def test_what_weights_only_refuses_is_marked_and_the_code_that_loads_it_does(tmp_path, shown, document):
    path = unsafe(tmp_path)
    text = shown(path)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)
    marked = set(re.findall(r"^UNSAFE +(\S+)$", text, re.MULTILINE))
    assert marked == set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    code = re.search(r"^to load +(import .*)\n +(with torch.*)$", text, re.MULTILINE)
    assert document(path)["allow_list"] == f"{code[1]}\n{code[2]}"
    scope: dict[str, Any] = {}
    exec(f"{code[1]}\n{code[2]}", scope)
    assert scope["state"]["hyper_parameters"].lr == 0.1
    assert scope["state"]["array"].tolist() == [0, 1, 2]


def test_what_runs_code_is_never_offered_to_be_allowed(tmp_path, shown, document):
    class Runs:
        def __reduce__(self):
            return os.system, ("touch ran",)

    torch.save({"a": Runs(), "b": argparse.Namespace()}, tmp_path / "a.pt")
    text = shown(tmp_path / "a.pt")
    assert re.search(r"^UNSAFE +posix.system, which runs code: never allow it$", text, re.MULTILINE)
    assert "to load" not in text
    told = document(tmp_path / "a.pt")
    assert told["allow_list"] is None
    assert {one["name"]: one["permission"] for one in told["imports"]} == {
        "posix.system": "dangerous", "argparse.Namespace": "refused",
    }  # fmt: skip
    assert not Path("ran").exists()
