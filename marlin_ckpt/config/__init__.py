"""Reads the YAML strictly, into the dataclasses of `arguments`, and reports all faults at once.

- `tree` parses the text to nodes that know their lines, and applies `--set`.
- `sections` builds the dataclasses from the nodes and collects the faults.
- `scalars` reads one value for the type of its field, as YAML 1.2 does.
"""

from marlin_ckpt.config.sections import Config, read_config

__all__ = ["Config", "read_config"]
