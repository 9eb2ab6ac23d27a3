"""What a file holds, without torch and without the data of its tensors.

- `contents` reads the metadata of a file of any format: `read_contents` returns tree, tensors, imports.
- `payload` tells whether that is a checkpoint of ours, and what it is instead.
- `node` is the tree of what a file holds; `tree` makes it from the stubs of a pickle, within bounds.
- `kinds` names the parts of a pickle for the tree.
- `digests` makes digests of types and complete values, which `diff` compares.
- `summary` makes of the tree what a person wants to see: names split at dots, repetition shown once.
- `optimizers` finds the states of optimizers in the tree, and which class each is of.
"""
