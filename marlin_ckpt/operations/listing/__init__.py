"""What `list` prints of a directory.

- `wanted`: what is to be listed, and how the options say it.
- `looking`: looks through the directory, and chooses.
- `order`: puts files in order, by a key, a metric and their run.
- `marks`: the metrics that are shown, and what is marked as the newest and the best.
"""
