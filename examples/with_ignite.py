"""Trains with PyTorch-Ignite; run it again after a kill, and it goes on from the newest intact checkpoint."""

import sys

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, global_step_from_engine

import marlin_ckpt
from marlin_ckpt.integrations.ignite import MarlinSaver

EPOCHS = 5


def main(directory: str) -> float:
    """Returns the loss at the end."""
    torch.manual_seed(0)
    data = torch.randn(256, 16)
    target = data[:, :1] * 2 - data[:, 1:2]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data, target), batch_size=32)

    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def step(_: Engine, batch: list[torch.Tensor]) -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    trainer = Engine(step)
    to_save = {"model": model, "optimizer": optimizer, "trainer": trainer}

    # The adapter: in place of DiskSaver(directory, require_empty=False).
    with MarlinSaver(directory, asynchronous=True, require_empty=False) as saver:
        handler = Checkpoint(
            to_save,
            saver,
            n_saved=2,
            include_self=True,
            global_step_transform=global_step_from_engine(trainer),
        )
        trainer.add_event_handler(Events.EPOCH_COMPLETED, handler)
        try:
            marlin_ckpt.load(directory, into={**to_save, "checkpointer": handler})
        except marlin_ckpt.CheckpointNotFoundError:
            print("starts from the beginning")
        if trainer.state.epoch < EPOCHS:
            trainer.run(loader, max_epochs=EPOCHS)
    return float(torch.nn.functional.mse_loss(model(data), target))


if __name__ == "__main__":
    print(f"loss {main(*sys.argv[1:] or ['checkpoints/ignite']):.4f}")
