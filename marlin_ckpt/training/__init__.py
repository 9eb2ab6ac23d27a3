"""A trainer: a client of the checkpointer like any other."""
