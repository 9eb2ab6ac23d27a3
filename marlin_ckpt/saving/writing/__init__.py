"""What a save writes: one file, or this rank's shard of a folder; alone, or together with other ranks.

crew      Crew: the ranks that save together
content   Content: what the engine asks of all of these
file      a file by this process
pickles   what is kept of the pickles of its saves, by which the next state is pickled
of_main   a file by rank 0, of whose end all ranks learn
gathering a file by rank 0 of tensors of which each rank has a part
sharded   a folder that all ranks write
wanted    Wanted: an object under a name, as `save` and `Saver` save it, and by which ranks
choosing  which of these a save is
"""
