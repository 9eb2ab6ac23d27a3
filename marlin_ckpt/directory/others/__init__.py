"""What other tools have in a directory of checkpoints.

- `kinds`: the newest of whatever is there, whichever tool wrote it.
- `left_out`: what a listing leaves out, as the options that show it.
"""
