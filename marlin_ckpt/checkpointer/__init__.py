"""Saves and loads the state of a run: what a trainer, or a loop of the user's, calls.

abstract    AbstractCheckpointer: the interface, PyMarlin's
default     DefaultCheckpointer: one process, one directory
directory   CheckpointDirectory: what is in a directory, the newest, the best, and what goes
hooks       what our trainer asks of a checkpointer beyond that
run_events  what a trainer does, for the history of the directory
run_saves   the saves of one run into directories, under its names and rules
sharing     how these share what has not changed
trial       saves and restores a state to measure what that takes; for `advise`

choice               which checkpoints `CheckpointDirectory.load` tries
beginning            what is done before the first step of a run
directory_arguments  the arguments of a CheckpointDirectory
"""
