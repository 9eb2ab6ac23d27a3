"""Saves and loads the state of a run: what a trainer, or a loop of the user's, calls.

abstract  AbstractCheckpointer: the interface, PyMarlin's
default   DefaultCheckpointer: one process, one directory
lineage   what the files of a run say of it in their manifests
trial     saves and restores a state to measure what that takes; for `advise`
"""
