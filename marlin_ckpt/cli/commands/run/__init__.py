"""Commands that need torch: `train`, `prove` (`prove-resume`) and `advise`, which times the disk."""
