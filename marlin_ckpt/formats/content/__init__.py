"""What a file holds, for people: what `show`, `diff` and `export` know of it.

outline      of any format: its tree, its tensors, what loading would import; start here
tree         makes the tree of a pickle's stubs
summary      the tree as `show` prints it: names split at their dots, what repeats itself told once
optimizers   which optimizers' states a tree holds
"""
