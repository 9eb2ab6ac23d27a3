"""Reads the arguments of a user's class from its source, without importing it or running any of it."""

import ast
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from marlin_ckpt.config.tree import read_bytes
from marlin_ckpt.errors import ConfigError, Fault
from marlin_ckpt.fields import suggestion

_OPTION = "--module"
_LARGEST_FILE = 4 << 20  # bytes of source; ast takes some hundred times as much memory
_MOST_BASES = 20


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a class.

    Attributes:
        name: its keyword.
        annotation: as the source has it; "" without one.
        default: as the source has it; None where the argument must be given.
    """

    name: str
    annotation: str
    default: str | None

    def literal(self) -> object:
        """The default as a value.

        Raises:
            ValueError: it is none that could be written down.
        """
        try:
            return ast.literal_eval(self.default or "")
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError(self.default) from error


@dataclass(frozen=True, slots=True)
class OwnClass:
    """A class as its source has it.

    Attributes:
        name: as `module.name` of the YAML has it: `my_package.my_file:MyModule`.
        file: of its source.
        arguments: in their order; empty where none are known.
        inherits: the name of the base class that has them, where that is in another file; else "".
        root: the directory that Python must search for the name; "" where it does.
    """

    name: str
    file: str
    arguments: tuple[Argument, ...]
    inherits: str
    root: str


def read(text: str) -> OwnClass:
    """Reads the class that a user points to.

    Args:
        text: `my_package.my_file:MyModule`, or `path/to/my_file.py:MyModule`.

    Raises:
        ConfigError: there is no such file, it cannot be read, or it has no such class.
    """
    place, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier() or not place:
        expected = "expected text, my_package.my_file:MyModule or my_file.py:MyModule"
        raise _refused(f"{expected}, not {text!r}{suggestion(text, ['text'])}")
    file = place if place.endswith(".py") else _file_of(place)
    body = _parsed(file).body
    classes = {one.name: one for one in _statements(body) if isinstance(one, ast.ClassDef)}
    if name not in classes:
        has = f"; it has {', '.join(list(classes)[:5])}" if classes else ""
        raise _refused(f"{file} has no class {name}{suggestion(name, classes) or has}")
    module, root = _module_of(file) if place.endswith(".py") else (place, "")
    arguments, inherits = _arguments(classes[name], classes)
    return OwnClass(f"{module}:{name}", file, tuple(arguments), inherits, root)


def _refused(message: str, hint: str = "") -> ConfigError:
    return ConfigError([Fault(_OPTION, message)], hint)


def _file_of(module: str) -> str:
    """The file of a module, looked for as Python does, in directories alone."""
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        raise _refused(f"{module!r} is no name of a module", f"a file is named with its .py: {module}.py")
    for place in dict.fromkeys(["", *sys.path]):
        whole = os.path.join(place, *parts)
        for file in (os.path.join(whole, "__init__.py"), f"{whole}.py"):
            if os.path.isfile(file):
                return file
    hint = "start it where `import` finds it, or name the file: path/to/my_file.py:MyModule"
    raise _refused(f"there is no module {module} in the working directory or in sys.path", hint)


def _module_of(file: str) -> tuple[str, str]:
    """The name by which Python imports a file, and the directory for that which it does not search."""
    place, last = os.path.split(os.path.abspath(file))
    parts = [] if last == "__init__.py" else [last.removesuffix(".py")]
    here = os.getcwd()
    searched = {here, *(os.path.abspath(one) for one in sys.path)}
    # A folder in the working directory is a package also without __init__.py.
    if place not in searched and os.path.commonpath([place, here]) == here:
        parts = [*os.path.relpath(place, here).split(os.sep), *parts]
        place = here
    while os.path.isfile(os.path.join(place, "__init__.py")) and place not in searched:
        place, last = os.path.split(place)
        parts.insert(0, last)
    if wrong := [part for part in parts if not part.isidentifier()]:
        raise _refused(f"{file} cannot be imported: {wrong[0]!r} is no name in Python", "rename it")
    return ".".join(parts), "" if place in searched else place


def _parsed(file: str) -> ast.Module:
    data = read_bytes(file, _LARGEST_FILE, _OPTION)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the user's code, on which nothing of ours depends
            return ast.parse(data, file)
    except SyntaxError as error:
        at = f"{file}:{error.lineno}" if error.lineno else file
        raise ConfigError([Fault(_OPTION, f"is no Python: {error.msg}", at)]) from error
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte; brackets without end
        why = str(error) or "it is nested too deep"
        raise ConfigError([Fault(_OPTION, f"is no Python: {why}", file)]) from error


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, with those under `if` and `try`."""
    for one in body:
        yield one
        if isinstance(one, (ast.If, ast.Try, ast.With)):
            yield from _statements(one.body)
            yield from _statements(getattr(one, "orelse", []))


def _arguments(found: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> tuple[list[Argument], str]:
    """The arguments of a class, or of the first base in its file that has an `__init__`.

    Returns:
        them; and the name of the base class that is elsewhere and must have them, if there is none here.
    """
    for _ in range(_MOST_BASES):
        made = [one for one in found.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
        if made:
            return list(_of_function(made[-1].args)), ""
        bases = [_source(one) for one in found.bases]
        here = [classes[one] for one in bases if one in classes]
        if not here:
            others = [one for one in bases if one.rpartition(".")[2] not in ("ModuleInterface", "object")]
            return [], others[0] if others else ""
        found = here[0]
    return [], ""


def _of_function(args: ast.arguments) -> Iterator[Argument]:
    named = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(named) - len(args.defaults)) + list(args.defaults)
    # Without `self`. What is given by its place alone cannot be given by the YAML.
    pairs = list(zip(named, defaults, strict=True))[max(1, len(args.posonlyargs)) :]
    for one, default in (*pairs, *zip(args.kwonlyargs, args.kw_defaults, strict=True)):
        annotation = "" if one.annotation is None else _source(one.annotation)
        yield Argument(one.arg, annotation, None if default is None else _source(default))


def _source(one: ast.expr) -> str:
    try:
        return ast.unparse(one)
    except RecursionError:  # a sum of thousands
        return "..."
