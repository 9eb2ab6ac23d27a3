"""What of a configuration is in force, key by key, and what set it: `marlin-ckpt config show`."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, get_origin

from marlin_ckpt.config import tree
from marlin_ckpt.config.keys import relative, yaml_fields
from marlin_ckpt.config.sections import read_with_places
from marlin_ckpt.fields import PathText, alternatives, hints_of

_MODEL_DIRECTORY, _DIRECTORY = "checkpointer.model_state_save_dir", "checkpointer.save_dir"


@dataclass(frozen=True, slots=True)
class Setting:
    """One key.

    Attributes:
        path: the keys that lead to it, from the section on; a number is a place in a list.
        value: as YAML has it.
        source: `default`, `file`, `--set`, or `save_dir`: what another key says counts for it too.
        line: of the file, where that sets it; else None.
    """

    path: tuple[str | int, ...]
    value: Any
    source: str
    line: int | None = None

    @property
    def key(self) -> str:
        """The path as messages and `--set` have it: `checkpointer.keep.best[0].metric`."""
        return "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in self.path)[1:]


def settings(path: PathText, overrides: Iterable[str] = ()) -> list[Setting]:
    """Reads a YAML file as `train` does.

    Args:
        path: the file.
        overrides: `KEY.PATH=VALUE` each.

    Returns:
        every key of every section, in the order of the reference; of a module of the user's the arguments
        that are set.

    Raises:
        ConfigError: as `read_config` raises it.
    """
    config, places = read_with_places(path, overrides)
    sections = {"module": config.module, "trainer": config.trainer, "checkpointer": config.checkpointer}
    return [
        _setting(where, value, places)
        for name, section in sections.items()
        for where, value in _flat((name,), section)
    ]


def _flat(path: tuple[str | int, ...], value: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if is_dataclass(value) and not isinstance(value, type):
        hints = hints_of(type(value))
        for field in yaml_fields(value):
            one = getattr(value, field.name)
            is_path = any(get_origin(hint) is os.PathLike for hint in alternatives(hints[field.name]))
            yield from _flat((*path, field.name), relative(one) if is_path else one)
    elif isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _flat((*path, key), one)
    elif isinstance(value, list) and any(map(is_dataclass, value)):
        for number, one in enumerate(value):
            yield from _flat((*path, number), one)
    else:
        yield path, value


def _setting(path: tuple[str | int, ...], value: Any, places: Mapping[str, str]) -> Setting:
    found = Setting(path, value, "default")
    place = places.get(found.key, "")
    if not place and found.key == _MODEL_DIRECTORY and _DIRECTORY in places:
        return Setting(path, value, "save_dir")
    if not place:
        return found
    if place.startswith(tree.OVERRIDE):
        return Setting(path, value, tree.OVERRIDE.strip())
    return Setting(path, value, "file", int(place.rpartition(":")[2]))
