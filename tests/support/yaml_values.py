"""The values of a YAML file, as a reader of YAML 1.2 has them."""

from __future__ import annotations

from typing import Any

import yaml

from marlin_ckpt.config import scalars, tree


def loaded(text: str) -> Any:
    """What a text means."""
    node = tree.compose(text, "text")
    assert node is not None
    return _value(node)


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {key.value: _value(one) for key, one in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_value(one) for one in node.value]
    return scalars.read_any(node)
