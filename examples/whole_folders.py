"""Checks checkpoints of any tool, files and folders; exits with 3 where one is damaged or incomplete."""

import sys

import marlin_ckpt


def main(*paths: str) -> int:
    """Returns how many of the checkpoints are bad."""
    bad = 0
    for path in paths:
        verdict = marlin_ckpt.verify(path)
        if verdict.status.is_bad:
            bad += 1
            print(f"{path}: {verdict.status.value}: {verdict.reason}")
        else:
            tensors = marlin_ckpt.inspect(path).tensors
            print(f"{path}: {verdict.status.value}, {len(tensors)} tensors")
    return bad


if __name__ == "__main__":
    sys.exit(3 if main(*sys.argv[1:]) else 0)
