"""What of the torch formats needs torch: between the records of a container and live tensors.

- `writer` writes a state: `pickler` pickles it and collects its storages; `unpicklable` finds what it cannot.
- `outline` and `facts` find what of a state and of its tensors decides how it is pickled; a `template` is a
  pickle with gaps for plain values.
- `parameters` names the parameters of optimizers, `versions` what a checkpoint is written by.
- `reader` loads a state, `weights` the tensors of a safetensors file: `unpickling` runs the pickle and allows
  only what is safe, `plain` no more than plain values and tensors; `placement` reads the storages into new
  tensors or into those of a live module, through the buffers that `memory` makes of them; `failures` turns
  what torch raises into our errors.
"""
