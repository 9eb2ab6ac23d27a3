"""The keys of the YAML, as the dataclasses behind its sections have them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import Field, is_dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from marlin_ckpt.arguments import (
    DefaultCheckpointerArguments,
    ImportedModuleArguments,
    SpiralArguments,
    TextArguments,
    TrainerArguments,
)
from marlin_ckpt.config.keys import default_text, descriptions, yaml_fields
from marlin_ckpt.distribution import FsdpArguments
from marlin_ckpt.fields import alternatives, hints_of
from marlin_ckpt.keep import BestArguments, RetentionArguments
from marlin_ckpt.remote import RemoteArguments

SECTIONS: dict[str, Any] = {
    "module-text": TextArguments,
    "module-spiral": SpiralArguments,
    "module-own": ImportedModuleArguments,
    "trainer": TrainerArguments,
    "fsdp": FsdpArguments,
    "checkpointer": DefaultCheckpointerArguments,
    "keep": RetentionArguments,
    "best": BestArguments,
    "remote": RemoteArguments,
}
_WORDS = {bool: "`true` or `false`", int: "an integer", float: "a number", str: "a string", dict: "a mapping"}
_NESTED: dict[Any, str] = {
    RetentionArguments: "a mapping ([`keep`](#keep))",
    BestArguments: "a mapping ([`best`](#best))",
    FsdpArguments: "a mapping ([`fsdp`](#fsdp))",
    RemoteArguments: "a mapping ([`remote`](#remote))",
}


def sections() -> dict[str, str]:
    """A definition list of the keys of each section, by the section's name."""
    return {name: "\n".join(_entries(name, kind)) for name, kind in SECTIONS.items()}


def _entries(section: str, kind: Any) -> Iterator[str]:
    texts = descriptions(kind)
    for field in yaml_fields(kind):
        default = default_text(field)
        facts = _type(field, hints_of(kind)[field.name])
        facts += f", default `{default}`" if default else ", required"
        yield f"[`{field.name}`]{{#{section}-{field.name}}}\n: {facts}\n\n  {texts[field.name]}\n"


def _type(field: Field[Any], hint: Any) -> str:
    kinds = alternatives(hint)
    is_path = any((get_origin(one) or one) is os.PathLike for one in kinds)
    words = ["a path"] if is_path else []
    words += [_word(one, field) for one in kinds if not (is_path and one is not NoneType)]
    return _listed(words)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " or " * (len(words) > 1) + words[-1]


def _word(hint: Any, field: Field[Any]) -> str:
    kind = get_origin(hint) or hint
    if kind is NoneType:
        return "`null`"
    if kind is Literal:
        return " or ".join(f"`{one}`" for one in get_args(hint))
    if kind is list:
        return "a list of strings" if get_args(hint) == (str,) else "a list of such mappings"
    if is_dataclass(kind):
        return _NESTED[hint]
    if choices := field.metadata.get("choices"):
        return _listed([f"`{one}`" for one in choices])
    return _WORDS[kind] + (_bounds(field) if kind in (int, float) else "")


def _bounds(field: Field[Any]) -> str:
    bounds = field.metadata
    lowest = f" above {bounds['above']}" if "above" in bounds else ""
    if "minimum" in bounds:
        lowest = f" of {bounds['minimum']} or more"
    most = bounds.get("maximum")
    if most is None:
        return lowest
    return lowest + (f" and {most} or less" if most < 2**31 else f", below 2^{(most + 1).bit_length() - 1}")
