"""What to do about a damaged checkpoint.

- `salvage` writes what is intact of a damaged file to a new one.
- `shards` does so of a damaged or incomplete sharded checkpoint.
- `copies` counts how many physical copies there are of what several checkpoints share on the disk.
- `remedies` names the next command for what is damaged or incomplete.
"""
