"""Commands that look at checkpoints: `list_` (`list`), `latest`, `log`, `show`, `diff`; `env` at machines."""
