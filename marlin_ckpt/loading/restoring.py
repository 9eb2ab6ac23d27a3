"""Restores a loaded state into live modules, optimizers and tensors, after it has decided whether it fits."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.autograd.graph import increment_version
from torch.optim import Optimizer

from marlin_ckpt.checkpoint import PAYLOAD_KEYS
from marlin_ckpt.errors import StateMismatchError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.torch.parameters import Names, names_in
from marlin_ckpt.loading import optimizers
from marlin_ckpt.loading.distributing import distributed
from marlin_ckpt.loading.live import changes_its_state, changes_states, is_plain_value, judges_itself
from marlin_ckpt.loading.prefixes import explain, prefix_of
from marlin_ckpt.loading.tensors import (
    Conversion,
    Target,
    can_convert,
    conflict,
    fault,
    is_one,
    local_of,
    sharing,
)
from marlin_ckpt.loading.words import (
    HINT,
    META_HINT,
    PREFIX_HINT,
    STRIP_HINT,
    described,
    join,
    refusals,
    some,
    told_of,
)

Pair = tuple[torch.Tensor, torch.Tensor]

_MOST_SHOWN = 10
IT, THE_OBJECT = "it", "the object"  # what the whole is called, which has no name in itself


class Restoration:
    """Live objects, arranged as a file has their states, and how they differ from these.

    Attributes:
        into: the live objects.
        notes: what the log should say of a load that went well, a sentence each.
    """

    _name_of_all = IT

    def __init__(self, into: Any) -> None:
        """Takes the live objects.

        Args:
            into: a module, an optimizer, a tensor, another object with `load_state_dict`, or dicts, lists and
                tuples of these.
        """
        self.into = self._into = into
        self.notes: list[str] = []
        self._forget()

    def _is_passed_over(self, saved: Any) -> bool:
        """Whether what is saved in the place of a live object says that nothing was saved of it."""
        del saved
        return False

    def _is_ignored(self, saved: Any, live: Any) -> bool:
        """Whether the log should say that a value is not restored: not where another takes its place."""
        return type(saved) is not type(live)

    def _prefix_hint(self, prefix: str) -> str:
        """What to do about a prefix that only the names in the file have, or about another cause: ""."""
        return STRIP_HINT.format(prefix) if prefix else PREFIX_HINT

    def _named(self) -> Any:
        """The live modules, by whose names files name the parameters of optimizers."""
        is_ours = isinstance(self._into, Mapping) and PAYLOAD_KEYS[0] in self._into
        return self._into[PAYLOAD_KEYS[0]] if is_ours else self._into

    def _forget(self) -> None:
        self._differences: list[str] = []
        self._misfits: list[str] = []  # of names and shapes, of which a module may make something
        self._causes: list[str] = []  # each of which explains some of the differences
        self._explained: set[str] = set()
        self._hint = HINT
        self._targets: list[Target] = []
        self._conversions: list[Conversion] = []
        self._doubtful: list[list[Target]] = []  # whether they fit, only their values tell
        self._ignored: list[str] = []
        self._saved_names: dict[str, Names] = {}
        self._is_left_to_judge = False  # a module that loads states in its own way decides what fits it
        self.notes.clear()

    def pairs(self, payload: Any, manifest: Manifest | None, path: str) -> list[Pair]:
        """Compares keys, shapes and dtypes of a payload with those of the live objects.

        Args:
            payload: the states; the bytes of their tensors are not needed yet.
            manifest: of the file.
            path: of the file, for error messages.

        Returns:
            tensors of the payload, each with the live one whose memory its bytes may be read into.

        Raises:
            StateMismatchError: something does not fit; it lists all that does not.
        """
        self._forget()
        self._saved_names = {} if manifest is None else manifest.optimizers
        found = list(self._compare(payload, self._into, ""))
        self._refuse_differences(path)
        self._doubtful = sharing(self._targets)
        # Nothing may change before the values that are in doubt have been looked at.
        is_in_doubt = bool(self._doubtful) or any(one.may_be_out_of_range() for one in self._conversions)
        return [] if is_in_doubt else found

    def finish(self, payload: Any, path: str) -> None:
        """Hands the states to the live objects, once all bytes are read.

        Raises:
            StateMismatchError: the values do not fit, or an object refuses its state.
        """
        self._differences += [told for group in self._doubtful if (told := conflict(group))]
        self._differences += [
            f"{one.name} holds integers that {one.dtype} does not have"
            for one in self._conversions
            if one.may_be_out_of_range() and one.is_out_of_range()
        ]
        self._refuse_differences(path)
        self.notes += told_of(self._conversions)
        if self._ignored:
            names = some(self._ignored)
            self.notes.append(f"Not restored, since nothing can be loaded into them in place: {names}")
        self._hand_over(payload, self._into, "", path)

    def _refuse_differences(self, path: str) -> None:
        found = [*self._misfits, *self._differences]
        if not found:
            return
        others = [one for one in found if one not in self._explained]
        told = [*self._causes, *others[:_MOST_SHOWN]]
        more = len(others) - _MOST_SHOWN
        what = "the state does not fit: " + "; ".join(told) + (f"; and {more} more" if more > 0 else "")
        differences = (*self._causes, *found)
        raise StateMismatchError(what, path, self._hint, differences=differences)

    def _compare(self, saved: Any, live: Any, path: str) -> Iterator[Pair]:
        if is_plain_value(live):
            self._ignored += [path] if self._is_ignored(saved, live) else []
        elif self._is_passed_over(saved):
            return
        elif saved is None and live is not None:
            self._tell_of_kinds(self._differences, saved, live, path)
        elif isinstance(live, torch.Tensor):
            yield from self._compare_tensors(saved, live, path)
        elif isinstance(live, torch.nn.Module):
            yield from self._compare_modules(saved, live, path)
        elif isinstance(live, Optimizer):
            if not changes_its_state(live):
                yield from self._compare_optimizers(saved, live, path)
        elif isinstance(live, (Mapping, list, tuple)):
            yield from self._compare_containers(saved, live, path)
        elif hasattr(live, "check_state_dict") and not (
            self._differences or self._misfits or self._is_left_to_judge
        ):
            live.check_state_dict(saved)

    @staticmethod
    def _tell_of_kinds(told: list[str], saved: Any, live: Any, path: str) -> None:
        told.append(f"{path or IT} is {described(saved)} in the file, {described(live)} here")

    def _compare_containers(self, saved: Any, live: Any, path: str) -> Iterator[Pair]:
        if isinstance(live, Mapping) and isinstance(saved, Mapping):
            parts = {join(path, key): (key, part) for key, part in live.items()}
            missing = [key for key in live if key not in saved]
            self._misfits += [f"{join(path, key)} is missing in the file" for key in missing]
            self._explain(saved, live, missing, path)
            parts = {one: (key, part) for one, (key, part) in parts.items() if key in saved}
        elif isinstance(live, (list, tuple)) and isinstance(saved, (list, tuple)) and len(saved) == len(live):
            parts = {f"{path}[{number}]": (number, part) for number, part in enumerate(live)}
        else:
            self._tell_of_kinds(self._misfits, saved, live, path)
            return
        for one, (key, part) in parts.items():
            yield from self._compare(saved[key], part, one)

    def _explain(
        self, saved: Mapping[Any, Any], live: Mapping[Any, Any], missing: list[Any], path: str
    ) -> None:
        names = [*map(str, saved)], [*map(str, live)], [*map(str, missing)]
        if cause := explain(*names):
            self._causes.append(f"of {path}, {cause}" if path else cause)
            self._explained |= {f"{join(path, key)} is missing in the file" for key in missing}
            self._explained |= {f"{join(path, key)} is not in the module" for key in saved}
            self._hint = self._prefix_hint(prefix_of(names[0], names[2]))

    def _compare_tensors(self, saved: Any, live: torch.Tensor, path: str) -> Iterator[Pair]:
        if not isinstance(saved, torch.Tensor):
            self._differences.append(
                f"{path or IT} is {described(saved)} in the file, {described(live)} here"
            )
        elif why := fault(saved, live):
            self._differences.append(f"{path or IT} {why}")
            self._hint = META_HINT if live.is_meta else self._hint
        elif not live.is_nested and saved.shape != live.shape:
            self._misfits.append(
                f"{path or IT} is {tuple(saved.shape)} in the file, {tuple(live.shape)} here"
            )
        else:
            self._targets.append(Target(path or self._name_of_all, saved, live))
            if saved.dtype == live.dtype:
                yield saved, live
            else:
                self._conversions.append(Conversion(path or self._name_of_all, local_of(saved), live.dtype))

    def _compare_modules(self, saved: Any, live: torch.nn.Module, path: str) -> Iterator[Pair]:
        if changes_states(live):
            return
        if not isinstance(saved, Mapping):
            self._tell_of_kinds(self._differences, saved, live, path)
            return
        state = self._state_of(live, saved)
        known, causes, ignored = len(self._misfits), len(self._causes), len(self._ignored)
        found: list[Pair] = list(self._compare_containers(saved, state, path))
        del self._ignored[ignored:]  # extra state, which the module itself takes
        self._misfits += [f"{join(path, key)} is not in the module" for key in saved if key not in state]
        if len(self._misfits) > known and len(self._causes) == causes and judges_itself(live):
            del self._misfits[known:]
            self._is_left_to_judge = True
            return
        yield from found

    def _state_of(self, live: torch.nn.Module, saved: Mapping[Any, Any]) -> Mapping[str, Any]:
        """What of a module's state is compared with a saved one."""
        del saved
        return live.state_dict()

    def _compare_optimizers(self, saved: Any, live: Optimizer, path: str) -> Iterator[Pair]:
        names = self._saved_names.get(path), names_in(live, self._named())
        told, kept = optimizers.compared(saved, live, path or "optimizer", *names)
        self._differences += told
        for one in kept:
            if one.saved.dtype != one.dtype:
                name = join(path, one.name)
                if can_convert(one.saved.dtype, one.dtype):
                    self._conversions.append(Conversion(name, local_of(one.saved), one.dtype))
                else:
                    self._differences.append(f"{name} is {one.saved.dtype} in the file, {one.dtype} here")
            elif one.live is not None and one.live.dtype == one.dtype and not one.live.is_inference():
                yield one.saved, one.live

    def _hand_over(self, saved: Any, live: Any, path: str, file: str) -> None:
        if self._is_passed_over(saved):
            return
        saved = distributed(saved, live)
        if isinstance(live, torch.Tensor):
            if is_one(saved, live):
                increment_version(live)
                return
            with refusals(f"the state does not fit: {path or THE_OBJECT} refuses it", file), torch.no_grad():
                live.copy_(saved)
        elif isinstance(live, Mapping):
            for key, part in live.items():
                self._hand_over(saved[key], part, join(path, key), file)
        elif isinstance(live, (list, tuple)):
            for number, part in enumerate(live):
                self._hand_over(saved[number], part, f"{path}[{number}]", file)
        elif isinstance(live, torch.nn.Module):
            self._hand_over_to_module(saved, live, path, file)
        elif hasattr(live, "load_state_dict"):
            with refusals(f"the state does not fit: {path or THE_OBJECT} refuses it", file):
                live.load_state_dict(saved)

    def _hand_over_to_module(self, saved: Any, live: torch.nn.Module, path: str, file: str) -> None:
        try:
            with refusals(f"the state does not fit: {path or THE_OBJECT} refuses it", file):
                live.load_state_dict(saved)
        except StateMismatchError as error:
            names = live.state_dict().keys()
            if isinstance(saved, Mapping) and (why := explain(saved, names, names - saved.keys())):
                what = f"the state does not fit: of {path or THE_OBJECT}, {why}"
                hint = self._prefix_hint(prefix_of(saved, names - saved.keys()))
                raise StateMismatchError(what, file, hint, differences=(why,)) from error
            raise
        if any(one.is_meta for one in live.parameters()):
            place = f"{path or IT} is on the meta device here"
            what = f"the state does not fit: {place}, and nothing was loaded into it"
            raise StateMismatchError(what, file, META_HINT)
