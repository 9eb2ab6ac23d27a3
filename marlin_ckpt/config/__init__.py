"""Reads the YAML: strictly, by the dataclasses of `arguments`, reporting every fault at once."""

from __future__ import annotations

from marlin_ckpt.config.sections import Config, read_config

__all__ = ["Config", "read_config"]
