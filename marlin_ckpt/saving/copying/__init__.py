"""Copies a state for a save in the background: at once, or while training goes on.

snapshot  the copy of a state, and what of it is made when
arena     the memory of these copies
staging   the threads that make them
device    copies from CUDA devices
owners    which tensors only an optimizer's step changes, and may be copied until then
awaited   the copy that the next optimizer step waits for
"""
