"""Parses text to a tree of YAML nodes, each of which knows its line."""

import os
from typing import Any

import yaml

from marlin_ckpt.config import scalars
from marlin_ckpt.errors import ConfigError, Fault
from marlin_ckpt.storage.hints import instead_of_missing
from marlin_ckpt.storage.local.files import open_regular
from marlin_ckpt.urls import is_url

_LARGEST_FILE = 256 << 10  # bytes; a hundred times the size of a usual configuration
_DEEPEST = 32
SPELLINGS = {"chkp": "checkpointer", "ckpt": "checkpointer", "ckp": "checkpointer", "tr": "trainer"}
OVERRIDE = "--set "


def read_text(where: str) -> str:
    """The text of a file.

    Raises:
        ConfigError: it cannot be read, is too large, or is not UTF-8.
    """
    data = read_bytes(where, _LARGEST_FILE, "file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1  # not of data, which may begin with a mark
        raise ConfigError([Fault("file", "is not UTF-8", f"{where}:{line}")]) from error


def read_bytes(where: str, most: int, what: str) -> bytes:
    """The bytes of a file that a person named.

    Args:
        where: the file.
        most: how many it may have.
        what: named it, for the error: `file`, or an option.

    Raises:
        ConfigError: it cannot be read, or is too large.
    """
    if is_url(where):  # which is not repeated: somebody may have put a password into it
        hint = "copy it to this machine first: aws s3 cp URL run.yaml"
        raise ConfigError([Fault(what, "is read from a disk, and not from an object store")], hint)
    try:
        with os.fdopen(open_regular(where), "rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        missing = isinstance(error, FileNotFoundError)
        hint = instead_of_missing(where, is_directory=False) if missing else ""
        raise ConfigError([Fault(what, f"cannot be read: {reason}", where)], hint) from error
    if len(data) > most:
        raise ConfigError([Fault(what, f"is larger than {most >> 10} KiB", where)])
    return data


class _Composer(yaml.SafeLoader):
    """Builds the nodes, but no Python objects from them; refuses aliases, tags and deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self._refuse("aliases are not supported; write the value out")
        if getattr(self.peek_event(), "tag", None) not in (None, "!"):  # type: ignore[no-untyped-call]
            self._refuse("tags are not supported")
        self.depth += 1
        if self.depth > _DEEPEST:
            self._refuse(f"is nested more than {_DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refuse(self, problem: str) -> None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def compose(text: str, where: str) -> yaml.Node | None:
    """Reads the one YAML document in a text; None where there is none.

    Raises:
        ConfigError: it is not YAML.
    """
    try:
        loader = _Composer(text)
        loader.name = where
        return loader.get_single_node()
    except (ValueError, OverflowError) as error:  # PyYAML's own, for "\U00110000" and the like
        at = where if where.startswith(OVERRIDE) else f"{where}:{loader.line + 1}"
        raise ConfigError([Fault("syntax", f"a number is out of range: {error}", at)]) from error
    except yaml.MarkedYAMLError as error:
        problem = str(error.problem or error.context)
        if problem == "but found another document":
            problem = "holds more than one document"
        if "'\\t'" in problem:
            problem = "a tab; YAML is indented with spaces"
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        at = where if where.startswith(OVERRIDE) else where + line
        raise ConfigError([Fault("syntax", problem, at)]) from error
    except yaml.YAMLError as error:
        raise ConfigError([Fault("syntax", str(error).splitlines()[0], where)]) from error


def location(node: yaml.Node) -> str:
    """File and line of a node, or the `--set` that it comes from."""
    name = str(node.start_mark.name)
    return name if name.startswith(OVERRIDE) else f"{name}:{node.start_mark.line + 1}"


def our_key(text: str, depth: int) -> str:
    """A key in our spelling: PyMarlin's examples name the sections in several ways."""
    return SPELLINGS.get(text, text) if depth == 0 else text


def nothing(mark: yaml.Mark) -> yaml.ScalarNode:
    """A node that means null."""
    return yaml.ScalarNode(scalars.NULL_TAG, "", mark, mark)


def override(root: yaml.MappingNode, text: str) -> Fault | None:
    """Puts the value of `--set KEY.PATH=VALUE` into the tree, and removes the value that it overrides.

    Returns:
        why it cannot be done, or None.

    Raises:
        ConfigError: the value is not YAML.
    """
    path, equals, value = text.partition("=")
    *parents, last = keys = path.split(".")
    if not equals or not all(keys):
        return Fault(path or text, "expected KEY.PATH=VALUE", OVERRIDE.strip())
    where = OVERRIDE + path
    mark = yaml.Mark(where, 0, 0, 0, None, 0)
    node = compose(value, where) or nothing(mark)
    mapping: yaml.Node = root
    for depth, key in enumerate(parents):
        child = _child(mapping, key, depth)
        if child is None or scalars.is_null(child):
            child = yaml.MappingNode("tag:yaml.org,2002:map", [], mark, mark)
            _put(mapping, key, child, depth)
        if not isinstance(child, yaml.MappingNode):
            above = ".".join(keys[: depth + 1])
            return Fault(path, f"{above} is {scalars.found(child)}, not a mapping", where)
        mapping = child
    _put(mapping, last, node, len(parents))
    return None


def _child(mapping: yaml.Node, key: str, depth: int) -> yaml.Node | None:
    wanted = our_key(key, depth)
    return next((part for name, part in mapping.value if our_key(str(name.value), depth) == wanted), None)


def _put(mapping: yaml.Node, key: str, value: yaml.Node, depth: int) -> None:
    key = our_key(key, depth)
    kept = [(name, part) for name, part in mapping.value if our_key(str(name.value), depth) != key]
    name = yaml.ScalarNode(scalars.STRING_TAG, key, value.start_mark, value.end_mark)
    mapping.value = [*kept, (name, value)]
