"""Builds the dataclasses of the sections from a tree of YAML nodes."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

import yaml

from marlin_ckpt.arguments import (
    MODULE_ARGUMENTS,
    DefaultCheckpointerArguments,
    ImportedModuleArguments,
    ModuleArguments,
    TrainerArguments,
)
from marlin_ckpt.config import scalars, tree
from marlin_ckpt.errors import ArgumentsError, ConfigError, Fault
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.fields import PathText, alternatives, hints_of, suggestion
from marlin_ckpt.urls import is_url

_SECTIONS = ("module", "trainer", "checkpointer")
_logger = get_logger(__name__)
_Items = dict[str, tuple[yaml.Node, yaml.Node]]


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
    return read_with_places(path, overrides)[0]


def read_with_places(path: PathText, overrides: Iterable[str] = ()) -> tuple[Config, Mapping[str, str]]:
    """Reads a YAML file as `read_config` does.

    Returns:
        the configuration; and of each key that was set, by its path, the file and the line, or the `--set`.
    """
    where = os.fspath(path)
    root = tree.compose(tree.read_text(where), where)
    if root is None:
        raise ConfigError([Fault("file", "is empty; it needs a section module", where)])
    if not isinstance(root, yaml.MappingNode):
        what = f"expected a mapping of sections, not {scalars.found(root)}"
        raise ConfigError([Fault("file", what, where)])
    reading = _Reading(where)
    reading.faults.extend(fault for text in overrides if (fault := tree.override(root, text)))
    config = reading.config(root)
    if reading.faults or config is None:
        raise ConfigError(sorted(reading.faults, key=_place))
    return config, reading.places


def _place(fault: Fault) -> tuple[str, int]:
    name, _, line = fault.where.rpartition(":")
    return (name, int(line)) if line.isdigit() else (fault.where, 0)


class _Reading:
    """Reads one file, and collects its faults and where its keys are set."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.faults: list[Fault] = []
        self.places: dict[str, str] = {}

    def fault(self, node: yaml.Node, path: str, message: str) -> None:
        self.faults.append(Fault(path, message, tree.location(node)))

    def config(self, root: yaml.MappingNode) -> Config | None:
        sections = self.items(root, "")
        for key in sections.keys() - set(_SECTIONS):
            self.unknown(sections[key][0], key, key, (*_SECTIONS, *tree.SPELLINGS))
        if "module" not in sections:
            self.faults.append(Fault("module", "is missing; it says what to train", self.where))
        missing = tree.nothing(root.start_mark)
        nodes = {name: sections.get(name, (missing, missing))[1] for name in _SECTIONS}
        module = self.module(nodes["module"]) if "module" in sections else None
        trainer = self.section(nodes["trainer"], "trainer", TrainerArguments)
        checkpointer = self.section(nodes["checkpointer"], "checkpointer", DefaultCheckpointerArguments)
        if module is None or trainer is None or checkpointer is None:
            return None
        _place_model_files(checkpointer, nodes["checkpointer"])
        trainer.checkpointer_args = checkpointer
        return Config(module, trainer, checkpointer)

    def module(self, node: yaml.Node) -> Any:
        """Builds the section whose keys depend on the name of the module."""
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        name = next((value.value for key, value in pairs if key.value == "name"), "")
        return self.section(node, "module", MODULE_ARGUMENTS.get(str(name), ImportedModuleArguments))

    def items(self, node: yaml.Node, path: str) -> _Items:
        """The keys of a mapping with their own and their values' nodes."""
        if scalars.is_null(node):
            return {}
        if not isinstance(node, yaml.MappingNode):
            self.fault(node, path, f"expected a mapping, not {scalars.found(node)}")
            return {}
        found: _Items = {}
        for key_node, value_node in node.value:
            key = tree.our_key(str(key_node.value), 1 if path else 0)
            if not isinstance(key_node, yaml.ScalarNode):
                self.fault(key_node, path or "file", "a key must be a string")
            elif not scalars.is_text(key_node):
                self.fault(key_node, path or "file", f"the key {key!r} is no string; put it in quotes")
            elif key in found:
                first = tree.location(found[key][0])
                self.fault(key_node, _join(path, key), f"is set twice, first at {first}")
            else:
                found[key] = (key_node, value_node)
                self.places[_join(path, key)] = tree.location(key_node)
        return found

    def section(self, node: yaml.Node, path: str, kind: Any) -> Any:
        """Builds the dataclass of a section, or collects why it cannot be; None then."""
        before = len(self.faults)
        items = self.items(node, path)
        if len(self.faults) > before and not isinstance(node, yaml.MappingNode):
            return None
        known = {field.name: field.metadata for field in fields(kind) if field.metadata.get("yaml", True)}
        values: dict[str, Any] = {}
        for key, (key_node, value_node) in items.items():
            if key not in known:
                self.unknown(key_node, _join(path, key), key, known)
                continue
            count = len(self.faults)
            value = self.item(value_node, hints_of(kind)[key], _join(path, key), known[key].get("check"))
            if len(self.faults) == count:
                values[key] = value
        is_whole = len(self.faults) == before
        # The dataclass checks ranges, with the default where a value is known to be wrong already.
        try:
            built = kind(**values)
        except ArgumentsError as error:
            for fault in error.faults:
                if not is_whole and fault.field not in known:
                    continue  # a rule on several fields cannot be judged while one of them is wrong
                if fault.field in values or fault.field not in items:
                    at = items[fault.field][1] if fault.field in items else node
                    self.fault(at, _join(path, fault.field), fault.message)
            return None
        return built if len(self.faults) == before else None

    def unknown(self, node: yaml.Node, path: str, key: str, known: Iterable[str]) -> None:
        self.fault(node, path, f"unknown key{suggestion(key, known)}")

    def value(self, node: yaml.Node, hint: Any, path: str) -> Any:
        """Reads a value for an annotated type.

        Raises:
            scalars.MismatchError: it does not fit.
        """
        for one in alternatives(hint):
            origin = get_origin(one) or one
            if is_dataclass(origin):
                if isinstance(node, yaml.MappingNode):
                    return self.section(node, path, origin)
                continue
            if origin is list and isinstance(node, yaml.SequenceNode):
                (item,) = get_args(one)
                return [self.item(part, item, f"{path}[{number}]") for number, part in enumerate(node.value)]
            if origin is dict and isinstance(node, yaml.MappingNode):
                return self.free(node, path)
            with contextlib.suppress(scalars.MismatchError):
                return scalars.read(node, one if origin is Literal else origin)
        raise scalars.MismatchError

    def item(self, node: yaml.Node, hint: Any, path: str, check: Callable[[str], str] | None = None) -> Any:
        """Reads a value for an annotated type, or notes why it does not fit; None then.

        Args:
            node: of the value.
            hint: the type.
            path: of the key.
            check: says what is wrong with a text, such as `10` where `10m` is expected.
        """
        try:
            return self.value(node, hint, path)
        except scalars.MismatchError:
            is_text = isinstance(node, yaml.ScalarNode) and not scalars.is_null(node)
            why = check(node.value) if check is not None and is_text else ""
            self.fault(node, path, why or scalars.mismatch(node, hint))
            return None

    def free(self, node: yaml.Node, path: str) -> Any:
        """Reads a value of a field without a type."""
        if isinstance(node, yaml.SequenceNode):
            return [self.free(part, f"{path}[{number}]") for number, part in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            items = self.items(node, path).items()
            return {key: self.free(part, _join(path, key)) for key, (_, part) in items}
        try:
            return scalars.read_any(node)
        except scalars.MismatchError:
            self.fault(node, path, scalars.ambiguity(node))
            return None


def _place_model_files(checkpointer: DefaultCheckpointerArguments, node: yaml.Node) -> None:
    """Writes model files where the checkpoints go, where the section says only where these do."""
    keys = {key.value for key, _ in node.value} if isinstance(node, yaml.MappingNode) else set()
    if "save_dir" in keys and "model_state_save_dir" not in keys:
        directory = checkpointer.save_dir
        if checkpointer.model_state_save_dir != (
            directory if is_url(directory) else os.path.abspath(directory)
        ):
            where = os.fspath(checkpointer.save_dir)
            _logger.info("Model files go to %s too: checkpointer.model_state_save_dir is not set.", where)
        checkpointer.model_state_save_dir = checkpointer.save_dir


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
