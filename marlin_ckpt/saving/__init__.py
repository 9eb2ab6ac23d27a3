"""Saves states to files: before the call returns, or in the background while training goes on.

saver           Saver: one save at a time, of either kind; here a save begins
plain           turns values that weights_only refuses into plain ones
about           when a file is written and by which versions, for its manifest
snapshot        copies a state for a save in the background: at once, or while training goes on
staging         the memory of these copies, and the threads that make them
device          copies from CUDA devices
owners          which tensors only an optimizer's step changes, and may be copied until then
turn            a lock that neither another thread nor a signal handler gets past
awaited         the copy that the next optimizer step waits for
background      the thread that finishes a save
pace            what saves have cost, and when the next one is due
predicted_size  how large a checkpoint will be once its optimizers have stepped
"""
