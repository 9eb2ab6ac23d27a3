"""What the sections of the page are made of.

- `markup` makes HTML and escapes; `figures` writes numbers and times.
- `axes` places values, `plotting` draws them in SVG.
- `blocks` says which tensors are one block of the network.
"""
