"""What makes the documentation from the code, for `make docs` and `make readme`.

- `reference` writes the pages on the commands, the keys of the YAML and the layers.
- `schemas` lists the keys of the JSON documents for the page on them, from their schemas.
"""
