"""Trains with Lightning; run it again after a kill, and it goes on from the last checkpoint."""

import logging
import sys
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from marlin_ckpt.integrations.lightning import MarlinCheckpointIO


class Net(lightning.LightningModule):
    """Two layers, trained to halve the sum of what they are given."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(16, width), torch.nn.Tanh(), torch.nn.Linear(width, 1)
        )

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        loss = (self.layers(batch[0]) - batch[0].sum(1, keepdim=True) / 2).square().mean()
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)

    def on_train_start(self) -> None:
        print(f"from step {self.trainer.global_step}")


def main(directory: str) -> float:
    """Returns the loss at the end."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    lightning.seed_everything(0, verbose=False)
    data = torch.utils.data.TensorDataset(torch.randn(256, 16))
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    options["enable_model_summary"] = False
    trainer = lightning.Trainer(
        max_epochs=20,
        callbacks=[ModelCheckpoint(directory, monitor="loss", save_top_k=2, save_last="link")],
        # The adapter: all else is as without it.
        plugins=[MarlinCheckpointIO(async_save=True)],
        **options,
    )
    net = Net()
    trainer.fit(net, torch.utils.data.DataLoader(data, batch_size=32), ckpt_path="last")
    x = data.tensors[0]
    return (net.layers(x) - x.sum(1, keepdim=True) / 2).square().mean().item()


if __name__ == "__main__":
    print(f"loss {main(*sys.argv[1:] or ['checkpoints/lightning']):.4f}")
