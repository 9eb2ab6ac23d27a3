"""Restores what fits of a loaded state, and reports what does not: `load(..., strict=False)`."""

import copy
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch.optim import Optimizer

from marlin_ckpt.errors import StateMismatchError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.torch.parameters import names_in
from marlin_ckpt.loading import optimizers
from marlin_ckpt.loading.arranging import merged
from marlin_ckpt.loading.live import changes_its_state, changes_states, is_plain_value
from marlin_ckpt.loading.prefixes import explain, prefix_of
from marlin_ckpt.loading.restoring import Pair, Restoration
from marlin_ckpt.loading.tensors import can_convert, conflict, fault
from marlin_ckpt.loading.words import described, join, refusals
from marlin_ckpt.reports import LoadReport

_Both = tuple[Any, Any]  # what is saved, and what is live
_NOTHING: _Both = (None, None)  # of which nothing is compared or loaded
_WHOLE = "(the whole)"  # the name of a state that is all that its file holds


class LenientRestoration(Restoration):
    """A restoration that leaves out what does not fit, and keeps account of it."""

    _name_of_all = _WHOLE

    def __init__(self, into: Any) -> None:
        """Takes the live objects; see `Restoration`."""
        super().__init__(into)
        self._fitting: Any = None
        self._warnings: list[str] = []
        self._begin()

    def _begin(self) -> None:
        self._loaded: dict[str, None] = {}
        self._missing: list[str] = []
        self._unexpected: list[str] = []
        self._mismatched: dict[str, str] = {}

    def pairs(self, payload: Any, manifest: Manifest | None, path: str) -> list[Pair]:
        """Leaves out what does not fit, and compares the rest; see `Restoration.pairs`."""
        self._begin()
        self._warnings.clear()
        self._into = self.into
        self._saved_names = {} if manifest is None else manifest.optimizers
        self._fitting, self._into = self._fit(payload, self.into, "")
        return super().pairs(self._fitting, manifest, path)

    def finish(self, payload: Any, path: str) -> None:
        """Hands what fits to the live objects; see `Restoration.finish`."""
        del payload
        for group in self._doubtful:
            if told := conflict(group):
                for one in group:
                    self._drop(one.name, told)
        for two in self._conversions:
            if two.name in self._loaded and two.may_be_out_of_range() and two.is_out_of_range():
                self._drop(two.name, f"holds integers that {two.dtype} does not have")
        self._doubtful = []
        self._conversions = [one for one in self._conversions if one.name not in self._mismatched]
        super().finish(self._fitting, path)
        self.notes += self._warnings

    def report(self, view: Any) -> LoadReport:
        """What was loaded; `view` is what the file holds."""
        loaded, missing, unexpected = map(tuple, (self._loaded, self._missing, self._unexpected))
        return LoadReport(
            loaded=loaded,
            missing=missing,
            unexpected=unexpected,
            mismatched=dict(self._mismatched),
            state=merged(view, self.into),
        )

    def _drop(self, name: str, why: str) -> None:
        self._loaded.pop(name, None)
        self._mismatched[name] = why

    def _fit(self, saved: Any, live: Any, path: str) -> _Both:
        """What of a state and of the live object for it fits the other; notes the rest."""
        if live is None or is_plain_value(live):
            return saved, live
        if isinstance(live, torch.nn.Module):
            return self._fit_module(saved, live, path)
        if isinstance(live, (Mapping, list, tuple)) and not isinstance(live, torch.Tensor):
            return self._fit_container(saved, live, path)
        if why := self._why_not(saved, live, path):
            self._mismatched[path or _WHOLE] = why
            return _NOTHING
        self._loaded[path or _WHOLE] = None
        return saved, live

    def _why_not(self, saved: Any, live: Any, path: str) -> str:
        if saved is None:
            return "is None in the file"
        if isinstance(live, torch.Tensor):
            return _misfit(saved, live)
        if isinstance(live, Optimizer) and not changes_its_state(live):
            return self._why_no_optimizer(saved, live, path)
        if hasattr(live, "check_state_dict"):
            try:
                live.check_state_dict(saved)
            except StateMismatchError as error:
                return error.what
        return ""

    def _why_no_optimizer(self, saved: Any, live: Optimizer, path: str) -> str:
        names = self._saved_names.get(path), names_in(live, self._named())
        found, kept = optimizers.compared(saved, live, path or "optimizer", *names)
        found += [
            f"{join(path, one.name)} is {one.saved.dtype} in the file, {one.dtype} here"
            for one in kept
            if not can_convert(one.saved.dtype, one.dtype)
        ]
        return "; ".join(found[:1]) + (f"; and {len(found) - 1} more" if len(found) > 1 else "")

    def _fit_container(self, saved: Any, live: Any, path: str) -> _Both:
        if isinstance(live, Mapping) and isinstance(saved, Mapping):
            self._missing += [
                join(path, key) for key, part in live.items() if key not in saved and part is not None
            ]
            fit = {
                key: self._fit(saved[key], part, join(path, key))
                for key, part in live.items()
                if key in saved
            }
            return {key: one for key, (one, _) in fit.items()}, {key: one for key, (_, one) in fit.items()}
        if isinstance(live, (list, tuple)) and isinstance(saved, (list, tuple)) and len(live) == len(saved):
            both = enumerate(zip(saved, live, strict=True))
            listed = [self._fit(one, part, f"{path}[{number}]") for number, (one, part) in both]
            return [one for one, _ in listed], [one for _, one in listed]
        self._mismatched[path or _WHOLE] = f"is {described(saved)} in the file, {described(live)} here"
        return _NOTHING

    def _fit_module(self, saved: Any, live: torch.nn.Module, path: str) -> _Both:
        if not isinstance(saved, Mapping):
            self._mismatched[path or _WHOLE] = f"is {described(saved)} in the file, a module here"
            return _NOTHING
        if changes_states(live):  # it alone can say which names fit
            return saved, live
        state = live.state_dict()
        missing = [key for key in state if key not in saved]
        self._missing += [join(path, key) for key in missing]
        self._unexpected += [join(path, key) for key in saved if key not in state]
        fitting = []
        for key in (key for key in state if key in saved):
            part = state[key]
            if isinstance(part, torch.Tensor) and (why := _misfit(saved[key], part)):
                self._mismatched[join(path, key)] = why
            else:
                fitting.append(key)
                self._loaded[join(path, key)] = None
        if not fitting and (cause := explain(map(str, saved), state, missing)):
            hint = self._prefix_hint(prefix_of(map(str, saved), missing))
            self._warnings.append(f"Nothing of {path or 'the module'} is loaded: {cause}; {hint}")
        return _with_only(saved, fitting), live

    def _state_of(self, live: torch.nn.Module, saved: Mapping[Any, Any]) -> Mapping[str, Any]:
        return {key: part for key, part in live.state_dict().items() if key in saved}

    def _hand_over(self, saved: Any, live: Any, path: str, file: str) -> None:
        name = path or _WHOLE
        if name in self._mismatched:
            return
        try:
            super()._hand_over(saved, live, path, file)
        except StateMismatchError as error:
            if isinstance(live, (Mapping, list, tuple)) and not isinstance(live, torch.Tensor):
                raise
            for one in list(self._names_within(path)):
                self._loaded.pop(one)
            self._mismatched[name] = error.what

    def _names_within(self, path: str) -> Iterator[str]:
        return (one for one in self._loaded if not path or one == path or one.startswith(f"{path}."))

    def _hand_over_to_module(self, saved: Any, live: torch.nn.Module, path: str, file: str) -> None:
        wanted = [key for key in saved if join(path, key) not in self._mismatched]
        with refusals(f"{path or 'the module'} refuses it", file):
            found: Any = live.load_state_dict(_with_only(saved, wanted), strict=False)
        if changes_states(live) and found is not None:
            self._missing += [join(path, key) for key in found.missing_keys]
            self._unexpected += [join(path, key) for key in found.unexpected_keys]
            rest = (key for key in wanted if key not in found.unexpected_keys)
            self._loaded |= dict.fromkeys(join(path, key) for key in rest)


def _misfit(saved: Any, live: torch.Tensor) -> str:
    if not isinstance(saved, torch.Tensor):
        return f"is {described(saved)} in the file, a tensor here"
    if why := fault(saved, live):
        return why
    if not live.is_nested and saved.shape != live.shape:
        return f"is {tuple(saved.shape)} in the file, {tuple(live.shape)} here"
    return ""


def _with_only(saved: Mapping[Any, Any], keys: list[Any]) -> Mapping[Any, Any]:
    """A state with some of its names alone, and what else it carries, such as the versions of modules."""
    whole: MutableMapping[Any, Any] = copy.copy(saved) if isinstance(saved, MutableMapping) else {}
    whole.clear()
    whole.update((key, saved[key]) for key in keys)
    return whole
