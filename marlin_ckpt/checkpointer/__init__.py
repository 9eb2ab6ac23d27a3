"""Saves and loads the state of a run: what a trainer, or a loop of the user's, calls.

abstract  AbstractCheckpointer: the interface, PyMarlin's
default   DefaultCheckpointer: one process, one directory
trial     saves and restores a state to measure what that takes; for `advise`
"""
