"""The pickle inside a torch file, without torch and without running any of it.

Reading, from the bottom up:
    reader: runs the opcodes within a budget; clients say what names, calls and references make.
    keys: charges the budget for the keys of dicts and sets.
    window: the pickles in a file, read where they are.
    stubs: a client that makes a stub of each object; it also writes stubs back as a pickle.

What the stubs mean:
    views: which of them are tensors, and what shape, dtype and storage each has.
    composites: which of them are tensors that are made of others, distributed or quantized ones.
    storages: which tensors are in which record, and a pickle without the tensors of lost records.
    modules: which of them are modules that were pickled whole, and what belongs to their state.
    scripted: which of them are modules of a TorchScript archive.
    plain: the bytes and sets that stubs stand for, in whatever protocol they were written.
    ndarrays: which of them are arrays and numbers of NumPy, and what shape and dtype each has.
    labels: names and values as short texts.
    permissions: which of the imported names `weights_only` allows.
"""
