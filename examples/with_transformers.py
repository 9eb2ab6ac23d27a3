"""Trains with Transformers; run it again after a kill, and it goes on from the newest intact checkpoint."""

import os
import sys

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from marlin_ckpt.integrations.transformers import protect


class Regression(torch.nn.Module):
    """A small model in the form that the Trainer wants: it returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.layers(x)
        return {"loss": torch.nn.functional.mse_loss(found, labels), "logits": found}


def main(directory: str) -> float:
    """Returns the loss at the end."""
    torch.manual_seed(0)
    data = torch.randn(256, 16)
    rows = [{"x": row, "labels": row[:1] * 2 - row[1:2]} for row in data]
    args = TrainingArguments(
        directory,
        num_train_epochs=5,
        per_device_train_batch_size=32,
        learning_rate=0.01,
        save_strategy="epoch",
        save_total_limit=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    # The adapter: protect(...) around the trainer.
    trainer = protect(Trainer(Regression(), args, train_dataset=rows))
    is_begun = os.path.isdir(directory) and get_last_checkpoint(directory) is not None
    if not is_begun:
        print("starts from the beginning")
    trainer.train(resume_from_checkpoint=is_begun)
    return trainer.evaluate(rows)["eval_loss"]


if __name__ == "__main__":
    print(f"loss {main(*sys.argv[1:] or ['checkpoints/transformers']):.4f}")
