"""Restores a loaded state into live modules, optimizers and tensors, after it has decided whether it fits."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.errors import StateMismatchError
from marlin_ckpt.loading import optimizers

Pair = tuple[torch.Tensor, torch.Tensor]

_MOST_SHOWN = 10
_LONGEST_REASON = 300  # characters
HINT = "load a checkpoint of the same configuration"


class Restoration:
    """Live objects, arranged as a file has their states, and how they differ from these."""

    def __init__(self, into: Checkpoint) -> None:
        """Takes the live objects.

        Args:
            into: see `DefaultCheckpointer.load`.
        """
        self._into = into.payload()
        self._differences: list[str] = []
        self._is_left_to_judge = False  # a module that loads states in its own way decides what fits it
        self.converted: list[str] = []

    def pairs(self, payload: Mapping[str, Any], path: str) -> list[Pair]:
        """Compares keys, shapes and dtypes of a payload with those of the live objects.

        Args:
            payload: the three states; the bytes of their tensors are not needed yet.
            path: of the file, for error messages.

        Returns:
            tensors of the payload, each with the live one whose memory its bytes may be read into.

        Raises:
            StateMismatchError: something does not fit; it lists all that does not.
        """
        self._differences.clear()
        self.converted.clear()
        self._is_left_to_judge = False
        found = list(self._compare(dict(payload), self._into, ""))
        if self._differences:
            shown = self._differences[:_MOST_SHOWN]
            more = len(self._differences) - len(shown)
            what = "the state does not fit: " + "; ".join(shown) + (f"; and {more} more" if more else "")
            raise StateMismatchError(what, path, HINT, differences=tuple(self._differences))
        return found

    def finish(self, payload: Mapping[str, Any], path: str) -> None:
        """Hands the states to the live objects, once all bytes are read.

        Raises:
            StateMismatchError: an object refuses its state.
        """
        self._hand_over(payload, self._into, "", path)

    def _compare(self, saved: Any, live: Any, path: str) -> Iterator[Pair]:
        if saved is None:
            return
        if isinstance(live, torch.Tensor):
            yield from self._compare_tensors(saved, live, path)
        elif isinstance(live, torch.nn.Module):
            if isinstance(saved, Mapping) and not _changes_states(live):
                yield from self._compare_modules(saved, live, path)
        elif isinstance(live, Optimizer):
            if not _changes_its_state(live):
                yield from self._compare_optimizers(saved, live, path)
        elif isinstance(live, (Mapping, list, tuple)):
            yield from self._compare_containers(saved, live, path)
        elif hasattr(live, "check_state_dict") and not (self._differences or self._is_left_to_judge):
            live.check_state_dict(saved)

    def _compare_containers(self, saved: Any, live: Any, path: str) -> Iterator[Pair]:
        if isinstance(live, Mapping) and isinstance(saved, Mapping):
            parts = {_join(path, key): (key, part) for key, part in live.items()}
            missing = [one for one, (key, _) in parts.items() if key not in saved]
            self._differences += [f"{one} is missing in the file" for one in missing]
            parts = {one: (key, part) for one, (key, part) in parts.items() if key in saved}
        elif isinstance(live, (list, tuple)) and isinstance(saved, (list, tuple)) and len(saved) == len(live):
            parts = {f"{path}[{number}]": (number, part) for number, part in enumerate(live)}
        else:
            self._differences.append(f"{path} is {_describe(saved)} in the file, {_describe(live)} here")
            return
        for one, (key, part) in parts.items():
            yield from self._compare(saved[key], part, one)

    def _compare_tensors(self, saved: Any, live: torch.Tensor, path: str) -> Iterator[Pair]:
        if not isinstance(saved, torch.Tensor):
            self._differences.append(f"{path} is {_describe(saved)} in the file, {_describe(live)} here")
        elif saved.shape != live.shape:
            self._differences.append(f"{path} is {tuple(saved.shape)} in the file, {tuple(live.shape)} here")
        elif saved.dtype != live.dtype:
            self.converted.append(f"{path} from {saved.dtype} to {live.dtype}")
        else:
            yield saved, live

    def _compare_modules(self, saved: Mapping[str, Any], live: torch.nn.Module, path: str) -> Iterator[Pair]:
        state = live.state_dict()
        differences, converted = len(self._differences), len(self.converted)
        found: list[Pair] = list(self._compare_containers(saved, state, path))
        self._differences += [f"{_join(path, key)} is not in the module" for key in saved if key not in state]
        if len(self._differences) > differences and _judges_itself(live):
            del self._differences[differences:], self.converted[converted:]
            self._is_left_to_judge = True
            return
        yield from found

    def _compare_optimizers(self, saved: Any, live: Optimizer, path: str) -> Iterator[Pair]:
        if found := optimizers.differences(saved, live, path):
            self._differences += found
            return
        for one in optimizers.kept(saved, live):
            if one.live is not None:
                yield from self._compare_tensors(one.saved, one.live, f"{path}.{one.name}")

    def _hand_over(self, saved: Any, live: Any, path: str, file: str) -> None:
        if saved is None:  # nothing was saved of it
            return
        if isinstance(live, torch.Tensor):
            with torch.no_grad():
                live.copy_(saved)  # nothing moves where the two share their memory
        elif isinstance(live, Mapping):
            for key, part in live.items():
                self._hand_over(saved[key], part, _join(path, key), file)
        elif isinstance(live, (list, tuple)):
            for number, part in enumerate(live):
                self._hand_over(saved[number], part, f"{path}[{number}]", file)
        elif hasattr(live, "load_state_dict"):
            with refusals(f"the state does not fit: {path} refuses it", file):
                live.load_state_dict(saved)


@contextlib.contextmanager
def refusals(what: str, file: str = "") -> Iterator[None]:
    """Turns what an object raises that refuses a state into a StateMismatchError.

    Args:
        what: begins its message.
        file: that holds the state, where there is one.
    """
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())  # torch lists every key, a line each
        shown = reason if len(reason) <= _LONGEST_REASON else reason[:_LONGEST_REASON] + " ..."
        raise StateMismatchError(f"{what}: {shown}", file, HINT) from error


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "a tensor"
    kind = type(value).__name__
    return f"a {kind} of {len(value)}" if isinstance(value, (Mapping, list, tuple)) else f"a {kind}"


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _changes_states(module: torch.nn.Module) -> bool:
    """Whether a module, or one in it, changes the states that it returns or loads."""
    return type(module).load_state_dict is not torch.nn.Module.load_state_dict or any(
        part._load_state_dict_pre_hooks  # noqa: SLF001 - torch has no other way to ask
        or part._state_dict_hooks  # noqa: SLF001
        or not type(part)._load_from_state_dict.__module__.startswith("torch.nn.modules.")  # noqa: SLF001
        for part in module.modules()
    )


def _judges_itself(module: torch.nn.Module) -> bool:
    """Whether a module, or one in it, may load what differs: states of older versions, as BatchNorm does."""
    plain = torch.nn.Module
    return any(
        type(part)._load_from_state_dict is not plain._load_from_state_dict  # noqa: SLF001
        or type(part).set_extra_state is not plain.set_extra_state
        for part in module.modules()
    )


def _changes_its_state(optimizer: Optimizer) -> bool:
    return bool(
        type(optimizer).load_state_dict is not Optimizer.load_state_dict
        or optimizer._optimizer_load_state_dict_pre_hooks  # noqa: SLF001
    )
