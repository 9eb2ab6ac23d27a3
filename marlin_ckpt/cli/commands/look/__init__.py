"""Commands that look: `list_` (`list`), `latest`, `show` and `diff` at checkpoints, `env` at the machine."""
