"""Checkpoints of runs on many ranks: what the ranks agree on, and how they save and load together.

Built on `torch.distributed`: its launcher, its process groups, its planners and DTensor. What is ours is
where the bytes go, when a checkpoint exists, and that all ranks end a save or a load alike.

ranks     Ranks: which process of a run this is, and what all of them agree on
failures  a failure at one rank, raised at all of them
flat      a nested state and the flat names under which it is stored
planning  SavePlans: who writes what, and where
commit    the folder that all ranks fill, and its one rename
saving    save_sharded, and its two halves: prepare, and write
metadata  `.metadata`, torch's pickle in a sharded checkpoint, from bytes
ranks      Ranks: which process of a run this is, and what all of them agree on
launch     how a process finds the others, and parts from them
failures   a failure at one rank, raised at all of them
flat       a nested state and the flat names under which it is stored
metadata   `.metadata`, torch's pickle in a sharded checkpoint, to and from bytes
loading    what ranks that load together agree on: the newest good checkpoint, and how a load ended
reads/     what a rank reads of a sharded checkpoint
"""
