"""What faults do to checkpoints: flipped bits in each format, and kills of trainings that save.

`python -m benchmarks faults --json docs/faults.json --chart docs/faults.svg` measures both. `flips` flips the
bits of small files one by one and loads them, `formats` are those that are written and read, `kills` runs the
trainings of `tests/support` that are killed, `document` writes the figures down and `picture` draws them.
"""
