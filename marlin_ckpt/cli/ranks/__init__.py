"""A command that many processes run together, the ranks of one training.

- `printing` decides what of this rank reaches the terminal.
- `rank_log` keeps what it has said, in a file of its own.
"""
