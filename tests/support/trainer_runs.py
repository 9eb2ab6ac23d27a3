"""Small trainings with the Trainer of Transformers: with our checkpoints, and with its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from marlin_ckpt.integrations.transformers import protect

STEPS = 6


class Net(nn.Module):
    """With dropout, whose random numbers a resumed run has to draw as the undisturbed one does."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Dropout(0.3), nn.Linear(width, 1))

    def forward(self, x, labels=None):
        found = self.layers(x).squeeze(-1)
        return {"loss": nn.functional.mse_loss(found, labels), "logits": found}


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        x = torch.linspace(number, number + 1, 4)
        return {"x": x / 12, "labels": x.sum() / 40}


def arguments(directory: str, **options: Any) -> TrainingArguments:
    """Six steps on the CPU, in two epochs, each of them saved."""
    defaults: dict[str, Any] = {
        "output_dir": directory, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4,
        "max_steps": STEPS, "save_steps": 1, "logging_steps": 1, "learning_rate": 0.01, "seed": 3,
        "report_to": [], "use_cpu": True, "disable_tqdm": True, "save_total_limit": 2,
    }  # fmt: skip
    return TrainingArguments(**{**defaults, **options})


def trainer(directory: str, kind: str = "ours", **options: Any) -> Trainer:
    """Makes one, whose module begins with the same weights each time."""
    torch.manual_seed(0)
    one = Trainer(Net(), arguments(directory, **options), train_dataset=Rows(), eval_dataset=Rows())
    return protect(one) if kind == "ours" else one
