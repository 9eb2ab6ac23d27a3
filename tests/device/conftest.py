"""The device of the tests in this folder, which are skipped where it is not there."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of `--device`."""
    found = torch.device(request.config.getoption("--device"))
    if found.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return found


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The device, for tests of what CUDA alone has."""
    if device.type != "cuda":
        pytest.skip("only CUDA has that")
    return device
