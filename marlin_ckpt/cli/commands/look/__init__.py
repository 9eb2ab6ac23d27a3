"""Commands that look: `list_` (`list`), `latest`, `show`, `diff`, `log`, `report`; `env` at machines."""
