"""Files of text that are written for people and their editors.

- `starter` makes the YAML file that `init` writes, with its JSON Schema beside it.
- `text_file` writes a text to a file of its own, whole and durable, over nothing that is not to be replaced.
"""
