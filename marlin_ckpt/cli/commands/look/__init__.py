"""Commands that look into files and directories: `list_` (`list`), `latest`, `show` and `diff`."""
