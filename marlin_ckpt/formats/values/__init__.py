"""Tensors of a file and their values; the modules that read values import numpy.

- `tensor` says where a tensor's elements are in a file, `dtypes` how long each is and what numpy calls it.
- `unused` counts the bytes of a file's storages that belong to no tensor.
- `arrays` reads the values of a tensor as numpy arrays.
- `checked` reads them and compares the checksum of each record that holds them.
- `sharded` does so for a folder: each tensor from its file, or from its `pieces` in several.
- `window` is a stretch of a file, or of memory, to be read as a file of its own.
- `accumulating` computes norm, minimum, maximum and counts of values, `gathering` of tensors while they are
  written, `distribution` also the mean, the
  standard deviation and a histogram of a tensor, `distance` how far two tensors differ.
- `draft` is a tensor that is to be written; `rounding` converts its values to another dtype.
"""
