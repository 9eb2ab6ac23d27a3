"""Commands about runs: `train`, `prove` (`prove-resume`) and `advise`, which times the disk, need torch.

`init` writes a YAML file for them, and `config` shows what one sets.
"""
