"""Trains an adapter on a frozen backbone; on XFS or btrfs each checkpoint takes what the adapter does."""

import os
import sys

import torch

from marlin_ckpt import CheckpointDirectory, CheckpointNotFoundError

STEPS, WIDTH, RANK = 8, 1024, 8


class Adapted(torch.nn.Module):
    """A frozen layer, and a low-rank change to it that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Linear(WIDTH, WIDTH).requires_grad_(requires_grad=False)
        self.down = torch.nn.Linear(WIDTH, RANK, bias=False)
        self.up = torch.nn.Linear(RANK, WIDTH, bias=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.backbone(rows) + self.up(self.down(rows))


def main(directory: str) -> None:
    """Trains, saves at each step, and goes on from the newest checkpoint that is intact."""
    torch.manual_seed(0)
    model = Adapted()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
    live = {"model": model, "optimizer": optimizer}
    with CheckpointDirectory(directory, keep=6, share_unchanged=True) as checkpoints:
        try:
            done = checkpoints.load("latest", into=live)["step"]
        except CheckpointNotFoundError:
            done = 0
        for step in range(done + 1, STEPS + 1):
            rows = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(step))
            (model(rows) - rows.roll(1, 1)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            before = _free_mb(directory)
            report = checkpoints.save({"step": step, **live}, step)
            took = before - _free_mb(directory)
            print(
                f"step {step}: a file of {report.size_bytes / 1e6:.1f} MB, {took:.1f} MB of the disk",
                flush=True,
            )


def _free_mb(directory: str) -> float:
    os.sync()
    found = os.statvfs(os.path.dirname(os.path.abspath(directory)))
    return found.f_bfree * found.f_frsize / 1e6


if __name__ == "__main__":
    main(*sys.argv[1:] or ["frozen"])
