"""What makes the documentation from the code, for `make docs` and `make readme`.

- `reference` writes what the pages include on the commands and on the keys of the YAML (`keys`).
- `layers` draws the layers, and lists the packages.
- `schemas` lists the keys of the JSON documents for the page on them, from their schemas.
- `figures` puts those of `docs/benchmarks.json` that the README shows into it.
- `tour` runs what README and pages show in a console, and puts in or checks what that prints; `page` finds
  the blocks of a file, `shell` runs their commands.
"""
