"""What other tools have in a directory of checkpoints.

- `kinds`: the newest of whatever is there, whichever tool wrote it.
- `needed`: which of their folders must stay.
- `left_out`: what a search that found nothing has left out, as the options that find it.
- `whole`: keeps `clean` from the parts of one checkpoint.
"""
