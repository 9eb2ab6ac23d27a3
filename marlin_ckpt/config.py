"""Reads the YAML: strictly, by the dataclasses of `arguments`, reporting every fault at once.

PyYAML reads YAML 1.1, in which `no` is false, `12:30` is 750 and `1e-3` is a string. Here a scalar is read
for the type of its field, as YAML 1.2 reads it; what the two read differently is refused, never guessed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from types import NoneType
from typing import Any, get_args, get_origin

import yaml

from marlin_ckpt.arguments import (
    MODULE_ARGUMENTS,
    DefaultCheckpointerArguments,
    ImportedModuleArguments,
    ModuleArguments,
    TrainerArguments,
)
from marlin_ckpt.errors import ArgumentsError, ConfigError, Fault
from marlin_ckpt.fields import PathText, alternatives, hints_of, words
from marlin_ckpt.storage.local import open_regular

_LARGEST_FILE = 256 << 10  # bytes; a hundred times what a configuration needs
_DEEPEST = 32
_SECTIONS = ("module", "trainer", "checkpointer")
_SPELLINGS = {"chkp": "checkpointer", "ckpt": "checkpointer", "ckp": "checkpointer", "tr": "trainer"}

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_NUMBER = re.compile(
    r"[-+]?((0|[1-9][0-9_]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = {"", "~", "null", "Null", "NULL"}
_STRING_TAG = "tag:yaml.org,2002:str"


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration.

    Attributes:
        module: what to train.
        trainer: how.
        checkpointer: what to save, when and where.
    """

    module: ModuleArguments
    trainer: TrainerArguments
    checkpointer: DefaultCheckpointerArguments


def read_config(path: PathText, overrides: Iterable[str] = ()) -> Config:
    """Reads a YAML file.

    Args:
        path: the file.
        overrides: `KEY.PATH=VALUE` each, taking the place of the file's key.

    Raises:
        ConfigError: the file cannot be read or is wrong; all faults at once, each with its line.
    """
    where = os.fspath(path)
    root = _compose(_read_text(where), where)
    reading = _Reading(where)
    if root is None:
        raise ConfigError([Fault("file", "is empty; it needs a section module", where)])
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError([Fault("file", f"expected a mapping of sections, not {_found(root)}", where)])
    for override in overrides:
        reading.override(root, override)
    config = reading.config(root)
    if reading.faults or config is None:
        raise ConfigError(sorted(reading.faults, key=_place))
    return config


def _place(fault: Fault) -> tuple[str, int]:
    name, _, line = fault.where.rpartition(":")
    return (name, int(line)) if line.isdigit() else (fault.where, 0)


def _read_text(where: str) -> str:
    try:
        with os.fdopen(open_regular(where), "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
        if len(data) > _LARGEST_FILE:
            raise ConfigError([Fault("file", f"is larger than {_LARGEST_FILE >> 10} KiB", where)])
        return data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError([Fault("file", f"cannot be read: {error.strerror}", where)]) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([Fault("file", "is not UTF-8", f"{where}:{line}")]) from error


class _Composer(yaml.SafeLoader):
    """Builds the tree of nodes; refuses what can grow without bound."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self._refuse("aliases are not supported; write the value out")
        self.depth += 1
        if self.depth > _DEEPEST:
            self._refuse(f"is nested more than {_DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refuse(self, problem: str) -> None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _compose(text: str, where: str) -> yaml.Node | None:
    try:
        loader = _Composer(text)
        loader.name = where
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        problem = str(error.problem or error.context)
        if "'\\t'" in problem:
            problem = "a tab; YAML is indented with spaces"
        at = f":{error.problem_mark.line + 1}" if error.problem_mark and not where.startswith("--set") else ""
        raise ConfigError([Fault("syntax", problem, where + at)]) from error
    except yaml.YAMLError as error:
        raise ConfigError([Fault("syntax", str(error).splitlines()[0], where)]) from error


def _found(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if _is_plain(node) and node.value in _NULLS:
        return "nothing"
    return repr(node.value)


def _is_plain(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None


class _WrongError(Exception):
    """A value does not fit its field."""


def _scalar(node: yaml.Node, hint: Any) -> Any:
    """Reads a scalar for one annotated type."""
    if not isinstance(node, yaml.ScalarNode):
        raise _WrongError
    text = node.value
    if hint is NoneType and _is_plain(node) and text in _NULLS:
        return None
    if hint is bool and _is_plain(node) and text in _BOOLS:
        return _BOOLS[text]
    if hint is int and _is_plain(node) and _INTEGER.fullmatch(text):
        return int(text)
    if hint is float and _is_plain(node) and _NUMBER.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if hint is str and (not _is_plain(node) or (node.tag == _STRING_TAG and not _NUMBER.fullmatch(text))):
        return text
    raise _WrongError


def _any_scalar(node: yaml.Node) -> Any:
    """Reads a scalar of a field without a type, where only what every reader reads alike is accepted."""
    for hint in (NoneType, bool, int, float, str):
        try:
            return _scalar(node, hint)
        except _WrongError:
            continue
    raise _WrongError


class _Reading:
    """One reading of one file: collects the faults on the way."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.faults: list[Fault] = []

    def fault(self, node: yaml.Node, key: str, message: str) -> None:
        name = node.start_mark.name
        where = name if name.startswith("--set") else f"{name}:{node.start_mark.line + 1}"
        self.faults.append(Fault(key, message, where))

    def override(self, root: yaml.MappingNode, text: str) -> None:
        """Puts the value of a `--set` into the tree, in the place of what it overrides."""
        path, equals, value = text.partition("=")
        where = f"--set {path}"
        keys = path.split(".")
        if not equals or not all(keys):
            self.faults.append(Fault(path or text, "expected KEY.PATH=VALUE", "--set"))
            return
        node: yaml.Node = _compose(value, where) or yaml.ScalarNode("tag:yaml.org,2002:null", "")
        node.start_mark = node.end_mark = yaml.Mark(where, 0, 0, 0, None, 0)
        mapping: yaml.Node = root
        for depth, key in enumerate(keys[:-1]):
            child = next((part for name, part in mapping.value if _key(name, depth) == key), None)
            if child is None or (_is_plain(child) and child.value in _NULLS):
                child = yaml.MappingNode("tag:yaml.org,2002:map", [], node.start_mark, node.end_mark)
                _replace(mapping, key, child, depth)
            if not isinstance(child, yaml.MappingNode):
                self.fault(node, path, f"{'.'.join(keys[: depth + 1])} is {_found(child)}, not a mapping")
                return
            mapping = child
        _replace(mapping, keys[-1], node, len(keys) - 1)

    def items(self, node: yaml.Node, path: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """The keys of a mapping with their own and their values' nodes; keys of sections in our spelling."""
        if _is_plain(node) and node.value in _NULLS:
            return {}
        if not isinstance(node, yaml.MappingNode):
            self.fault(node, path, f"expected a mapping, not {_found(node)}")
            return {}
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value_node in node.value:
            key = _key(key_node, 0 if not path else 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self.fault(key_node, path or "file", "a key must be a string")
            elif key in found:
                line = found[key][0].start_mark.line + 1
                self.fault(key_node, _join(path, key), f"is set twice, first in line {line}")
            else:
                found[key] = (key_node, value_node)
        return found

    def config(self, root: yaml.MappingNode) -> Config | None:
        sections = self.items(root, "")
        for key in sections.keys() - set(_SECTIONS):
            self.unknown(sections[key][0], key, key, (*_SECTIONS, *_SPELLINGS))
        if "module" not in sections:
            self.faults.append(Fault("module", "is missing; it says what to train", self.where))
        nothing = yaml.ScalarNode("tag:yaml.org,2002:null", "", root.start_mark)
        nodes = {name: sections.get(name, (nothing, nothing))[1] for name in _SECTIONS}
        module = self.section(nodes["module"], "module", self.module_kind(nodes["module"]))
        trainer = self.section(nodes["trainer"], "trainer", TrainerArguments)
        checkpointer = self.section(nodes["checkpointer"], "checkpointer", DefaultCheckpointerArguments)
        if module is None or trainer is None or checkpointer is None:
            return None
        trainer.checkpointer_args = checkpointer
        return Config(module, trainer, checkpointer)

    def module_kind(self, node: yaml.Node) -> type:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        name = next((value.value for key, value in pairs if key.value == "name"), None)
        return (
            MODULE_ARGUMENTS.get(name, ImportedModuleArguments)
            if isinstance(name, str)
            else ImportedModuleArguments
        )

    def section(self, node: yaml.Node, path: str, kind: Any) -> Any:
        """Builds the dataclass of a section, or collects why it cannot be; None then."""
        items = self.items(node, path)
        known = {field.name: field for field in fields(kind) if field.metadata.get("yaml", True)}
        before = len(self.faults)
        values: dict[str, Any] = {}
        for key, (key_node, value_node) in items.items():
            if key not in known:
                self.unknown(key_node, _join(path, key), key, known)
                continue
            try:
                values[key] = self.value(value_node, hints_of(kind)[key], _join(path, key))
            except _WrongError:
                self.fault(value_node, _join(path, key), _mismatch(value_node, hints_of(kind)[key]))
        # The dataclass checks ranges, with the default where a value is known to be wrong already.
        try:
            built = kind(**values)
        except ArgumentsError as error:
            for fault in error.faults:
                if fault.field in values or fault.field not in items:
                    at = items[fault.field][1] if fault.field in items else node
                    self.fault(at, _join(path, fault.field), fault.message)
            return None
        return built if len(self.faults) == before else None

    def unknown(self, node: yaml.Node, path: str, key: str, known: Iterable[str]) -> None:
        near = get_close_matches(key, list(known), n=1)
        self.fault(node, path, "unknown key" + (f"; did you mean {near[0]}?" if near else ""))

    def value(self, node: yaml.Node, hint: Any, path: str) -> Any:
        """Reads a value for an annotated type.

        Raises:
            _WrongError: it does not fit.
        """
        for one in alternatives(hint):
            origin = get_origin(one) or one
            if origin is list and isinstance(node, yaml.SequenceNode):
                (item,) = get_args(one)
                return [self.item(part, item, f"{path}[{number}]") for number, part in enumerate(node.value)]
            if origin is dict and isinstance(node, yaml.MappingNode):
                return {
                    key: self.free(part, _join(path, key))
                    for key, (_, part) in self.items(node, path).items()
                }
            try:
                return _scalar(node, origin)
            except _WrongError:
                continue
        raise _WrongError

    def item(self, node: yaml.Node, hint: Any, path: str) -> Any:
        try:
            return self.value(node, hint, path)
        except _WrongError:
            self.fault(node, path, _mismatch(node, hint))
            return None

    def free(self, node: yaml.Node, path: str) -> Any:
        """Reads a value of a field without a type."""
        if isinstance(node, yaml.SequenceNode):
            return [self.free(part, f"{path}[{number}]") for number, part in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return {
                key: self.free(part, _join(path, key)) for key, (_, part) in self.items(node, path).items()
            }
        try:
            return _any_scalar(node)
        except _WrongError:
            self.fault(node, path, f"{node.value!r} has several readings; {_advice(node)}")
            return None


def _key(node: yaml.Node, depth: int) -> str:
    text = str(node.value)
    return _SPELLINGS.get(text, text) if depth == 0 else text


def _replace(mapping: yaml.Node, key: str, value: yaml.Node, depth: int) -> None:
    key = _SPELLINGS.get(key, key) if depth == 0 else key
    kept = [(name, part) for name, part in mapping.value if _key(name, depth) != key]
    mapping.value = [*kept, (yaml.ScalarNode(_STRING_TAG, key, value.start_mark, value.end_mark), value)]


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _mismatch(node: yaml.Node, hint: Any) -> str:
    message = f"expected {words(hint)}, not {_found(node)}"
    kinds = alternatives(hint)
    if _is_plain(node) and node.value not in _NULLS and (bool in kinds or str in kinds):
        return f"{message}; {_advice(node) if str not in kinds else 'put it in quotes'}"
    return message


def _advice(node: yaml.Node) -> str:
    if node.value.lower() in ("y", "n", "yes", "no", "on", "off"):
        return "write true or false"
    return "put it in quotes, or write a plain decimal number"
