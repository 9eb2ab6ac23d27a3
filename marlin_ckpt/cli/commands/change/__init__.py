"""Commands that write or remove files: `export`, `average` and `clean`."""
