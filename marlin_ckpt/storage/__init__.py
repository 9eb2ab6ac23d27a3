"""Where bytes go: what knows of files and directories, and nothing of what they hold.

- `target`: what a file's content is handed to while it is written, in any store.
- `local`: a directory of this machine.
"""
