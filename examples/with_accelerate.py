"""Trains with Accelerate; run it again after a kill, and it goes on from the newest intact state."""

import sys

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed

from marlin_ckpt import CheckpointNotFoundError
from marlin_ckpt.integrations.accelerate import protect

EPOCHS = 5


def main(directory: str) -> float:
    """Returns the loss at the end."""
    config = ProjectConfiguration(directory, automatic_checkpoint_naming=True, total_limit=2)
    # The adapter: protect(...) around the accelerator.
    accelerator = protect(Accelerator(cpu=True, project_config=config))

    set_seed(0)
    data = torch.randn(256, 16)
    target = data[:, :1] * 2 - data[:, 1:2]
    rows = torch.utils.data.TensorDataset(data, target)
    model, optimizer, loader = accelerator.prepare(
        model := torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)),
        torch.optim.AdamW(model.parameters(), lr=0.01),
        torch.utils.data.DataLoader(rows, batch_size=32, shuffle=True),
    )
    try:
        accelerator.load_state()
    except CheckpointNotFoundError:
        print("starts from the beginning")

    # Each epoch saves once, so that the number of the next state is that of the next epoch.
    for _epoch in range(accelerator.save_iteration, EPOCHS):
        for inputs, wanted in loader:
            loss = torch.nn.functional.mse_loss(model(inputs), wanted)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        accelerator.save_state()
    return float(torch.nn.functional.mse_loss(model(data), target))


if __name__ == "__main__":
    print(f"loss {main(*sys.argv[1:] or ['checkpoints/accelerate']):.4f}")
