"""Reads the YAML strictly, into the dataclasses of `arguments`, and reports all faults at once.

- `tree` parses the text to nodes that know their lines, and applies `--set`.
- `sections` builds the dataclasses from the nodes and collects the faults.
- `scalars` reads one value for the type of its field, as YAML 1.2 does; `writing`
  writes one so that it is read as it is.
- `in_force` lists every key with its value and what set it.
- `keys` has what is said of each key: docstrings and defaults. From it `schema` makes the
  JSON Schema, and `template` the file that `init` writes.
- `classes` reads the arguments of a user's class from its source.
"""

from marlin_ckpt.config.sections import Config, read_config

__all__ = ["Config", "read_config"]
