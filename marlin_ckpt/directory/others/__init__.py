"""What other tools have in a directory of checkpoints.

- `kinds`: the newest of whatever is there, whichever tool wrote it.
- `needed`: which of their folders must stay.
- `left_out`: what a listing leaves out, as the options that show it.
- `whole`: keeps `clean` from the parts of one checkpoint.
"""
