"""Trains in a loop of one's own, with the statistics of its tensors, and writes a report of it.

    python examples/report_of_a_loop.py
    marlin-ckpt report checkpoints/reported    # the same, of any directory

The report shows what retention has removed, too, and which layers moved when the learning rate rose.
"""

import subprocess
import sys

import torch

from marlin_ckpt import CheckpointDirectory

EPOCHS = 12


def main(directory: str = "checkpoints/reported", page: str = "report.html") -> None:
    """Trains, saves with statistics, and writes the page."""
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = x.sin().sum(1, keepdim=True)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with CheckpointDirectory(directory, keep=4, statistics=True) as checkpoints:
        for epoch in range(EPOCHS):
            rate = 0.5 if epoch == EPOCHS // 2 else 1e-2  # too high, once
            optimizer.param_groups[0]["lr"] = rate
            for _ in range(16):
                loss = torch.nn.functional.mse_loss(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            state = {"model": model, "optimizer": optimizer, "epoch": epoch}
            checkpoints.save(state, epoch, metrics={"loss": loss.item(), "learning_rate": rate})
    command = [sys.executable, "-m", "marlin_ckpt", "report", directory, "-o", page]
    subprocess.run(command, check=True)  # noqa: S603


if __name__ == "__main__":
    main(*sys.argv[1:])
