"""The states of all random number generators that training draws from."""

import contextlib
import hashlib
import importlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch


def states() -> dict[str, Any]:
    """The present states: Python's, torch's, NumPy's where it is imported, and each CUDA device's."""
    found: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if numpy := _numpy():
        found["numpy"] = _converted(numpy.random.get_state(legacy=False), _tensor)
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def _numpy() -> Any:
    """The module, where it is imported whole."""
    numpy = sys.modules.get("numpy")
    return numpy if hasattr(numpy, "random") else None


def restore(saved: Mapping[str, Any]) -> list[str]:
    """Restores the states that `states` returned once.

    Returns:
        what could not be restored, a sentence each.
    """
    lost = []
    random.setstate(_tuples(saved["python"]))
    torch.set_rng_state(saved["torch"].cpu())
    if "numpy" in saved:
        try:
            importlib.import_module("numpy").random.set_state(_converted(saved["numpy"], _array))
        except ImportError:
            lost.append("NumPy was imported and cannot be now")
    if "cuda" in saved:
        devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if devices == len(saved["cuda"]):
            torch.cuda.set_rng_state_all([state.cpu() for state in saved["cuda"]])
        else:
            lost.append(f"there were {len(saved['cuda'])} CUDA devices and there are {devices}")
    return lost


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Restores the present states when the context ends, whatever is drawn inside."""
    before = states()
    try:
        yield
    finally:
        restore(before)


def seed_all(seed: int) -> None:
    """Seeds all generators."""
    random.seed(seed)
    torch.manual_seed(seed)  # the CUDA devices' too
    if numpy := _numpy():
        numpy.random.seed(seed % 2**32)  # all that it takes


def derived(seed: int, *names: object) -> int:
    """A seed below 2**63 that a seed and the names of its purpose determine."""
    text = ":".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def _converted(value: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _converted(one, convert) for key, one in value.items()}
    return convert(value)


def _tensor(value: Any) -> Any:
    """NumPy's arrays as tensors, which `weights_only` loads."""
    return torch.from_numpy(value.copy()) if hasattr(value, "__array__") else value


def _array(value: Any) -> Any:
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value


def _tuples(value: Any) -> Any:
    """Lists as tuples: a checkpointer of the user's may have converted the tuples to lists."""
    return tuple(_tuples(one) for one in value) if isinstance(value, (list, tuple)) else value
