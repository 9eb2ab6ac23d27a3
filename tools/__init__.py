"""What makes the documentation from the code, for `make docs` and `make readme`.

- `reference` writes the pages on the commands, the keys of the YAML and the layers.
- `schemas` writes the tables of the page on the JSON documents, from their schemas.
"""
