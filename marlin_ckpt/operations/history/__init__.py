"""What `log` prints of the history of a directory, without torch.

- `lineage` makes runs and their starts of the events: how each start ended, and what it resumed from.
- `rows` chooses the events that are printed, and adds what follows from others.
"""
