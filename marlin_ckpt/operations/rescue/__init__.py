"""What to do about a damaged checkpoint.

- `salvage` writes what is intact of a damaged file to a new one.
- `remedies` names the next command for what is damaged or incomplete.
"""
