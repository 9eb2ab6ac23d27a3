"""What makes a resumed run the run that was never stopped, bit for bit.

restorable    Restorable: the trainer's state, saved and restored
continuation  takes over a trainer's state; announces why a resume will not be exact
fitting       whether a state fits the optimizers and schedulers
conditions    arguments, versions, data and hyper-parameters that must be what they were
made          what the module gave its optimizers and schedulers
loaders       what the batches of an epoch depend on
position      where within its epoch the run is
order         the order of the training data, and the batches that are left of an epoch
rng           the states of all random number generators
leaves        fingerprints of tensors and values, and by how much two of them differ
"""
