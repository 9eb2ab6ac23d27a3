"""Trains on many ranks: what each of them does of a step, and what they agree on.

sharing    Sharing: the part that other ranks have in a step; with one process, none
fully_sharded  FullySharded: a part of the module on each rank, by torch's FSDP2
backends   DDPTrainerBackend and FSDPTrainerBackend, and the choice of a backend by its name
batches    the batches of each rank: as many for all, or as one after the other ends
gathering  the outputs and metrics of all ranks, and what they find to be said
alike      compares what the ranks have made: parameters, optimizers, arguments, data
passes     which parts of a sharded module a rank has run, compared with the others
names      leaves what wrappers put into names out of the module's state
own        what differs between ranks, in a checkpoint
shared     a checkpointer as all ranks call it: rank 0 does what it does, and all learn of it
joining    finds the other ranks when a trainer is made
"""
