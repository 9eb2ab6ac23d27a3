"""What the commands do with checkpoints, without torch; each module is named after its command.

- `one` verifies and inspects one checkpoint by its path, for `marlin_ckpt.verify` and `marlin_ckpt.inspect`.
- `verify` reads files whole and judges them; `rescue` is about those that are damaged; see there.
- `diff` compares two files; `pairs` reads the tensors that both have, on several threads; `values` compares
  what else they hold.
- `export` writes the weights of a checkpoint to a new file or folder, `average` those of several;
  `weights_file` is the file, safetensors or a bare state dict, or the folder, of shards.
- `packed` finds the tensors that are quantized, and the values that they stand for; see there.
- `selection` chooses tensors and values of a file, by state or by pattern, for `show`, `diff` and `export`.
- `listing` looks through a directory for `list`, and chooses, sorts and marks what it prints; see there.
- `history` makes lines and runs of the events in a directory's history, for `log`; see there.
- `starting` decides what `train` continues from and what it replaces; `launched` has what torchrun says of
  this process, and `restarts` goes on with a run that torchrun starts again.
- `report` gathers what `report` shows; see there.
- `texts` writes files of text, such as that of `init`; see there.
- `folders` judges the folders of other tools, for the adapters; see there.
- `advice` works out how often a run should save, for `advise`.
- `environment` looks up versions and the machine, for `env`; `memory` how much this process may have.
"""
