"""A character-level transformer language model over text files.

Shape suffixes: B batch, T characters of context, V vocabulary, C width, H heads.
"""

import hashlib
import os
from typing import Any

import torch
from torch import nn

from marlin_ckpt.arguments import TextArguments
from marlin_ckpt.errors import ConfigError, Fault
from marlin_ckpt.storage.local.files import open_regular
from marlin_ckpt.training.toys.toy import Toy

_VALIDATION_SHARE = 10  # every tenth window is held out


class _Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a norm and around a residual; as GPT-2 has it."""

    def __init__(self, args: TextArguments) -> None:
        super().__init__()
        self.heads, self.dropout = args.heads, args.dropout
        self.norm_attention, self.norm_mlp = nn.LayerNorm(args.width), nn.LayerNorm(args.width)
        self.qkv = nn.Linear(args.width, 3 * args.width)
        self.project = nn.Linear(args.width, args.width)
        wide = 4 * args.width
        self.mlp = nn.Sequential(nn.Linear(args.width, wide), nn.GELU(), nn.Linear(wide, args.width))

    def forward(self, x_btc: torch.Tensor) -> torch.Tensor:
        shape = x_btc.shape
        qkv = self.qkv(self.norm_attention(x_btc)).view(*shape[:2], 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each B, H, T, C / H
        dropout = self.dropout if self.training else 0.0
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        x_btc = x_btc + self._drop(self.project(mixed.transpose(1, 2).reshape(shape)))
        return x_btc + self._drop(self.mlp(self.norm_mlp(x_btc)))

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, self.dropout, self.training)


class Text(Toy):
    """Predicts each character from those before it; the embedding is also the output layer, as in GPT-2."""

    def __init__(self, args: TextArguments) -> None:
        """Reads the files.

        Args:
            args: the section of the YAML.

        Raises:
            ConfigError: a file cannot be read or is not UTF-8, or there is too little text.
        """
        super().__init__()
        self.args = args
        text = _read(args.files)
        self.characters = "".join(sorted(set(text)))
        rows = args.vocabulary_size or len(self.characters)
        if rows < len(self.characters):
            message = f"the text has {len(self.characters)} distinct characters, more than {rows}"
            raise ConfigError([Fault("module.vocabulary_size", message)])
        self.train_data, self.val_data = self._windows(text)
        self.embedding = nn.Embedding(rows, args.width)
        self.position = nn.Embedding(args.context, args.width)
        self.blocks = nn.Sequential(*(_Block(args) for _ in range(args.depth)))
        self.norm = nn.LayerNorm(args.width)
        self.apply(_initialise)
        self.metrics = {}
        self._fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def data_fingerprint(self) -> str:
        """A hash of the text."""
        return self._fingerprint

    def _windows(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows of context + 1 characters, each starting where the one before it ends, (windows, T + 1)."""
        context, least = self.args.context, 2 * self.args.context + 1
        if len(text) < least:
            message = f"hold {len(text)} characters; a context of {context} needs {least} or more"
            raise ConfigError([Fault("module.files", message)])
        codes = {character: code for code, character in enumerate(self.characters)}
        windows = torch.tensor([codes[character] for character in text]).unfold(0, context + 1, context)
        train = [number for number in range(len(windows)) if number % _VALIDATION_SHARE]
        return windows[train], windows[::_VALIDATION_SHARE]

    def get_extra_state(self) -> dict[str, str]:
        """The characters that the rows of the embedding stand for."""
        return {"characters": self.characters}

    def set_extra_state(self, state: dict[str, str]) -> None:
        """Refuses a state whose rows stand for other characters: it would load and mean nothing.

        Raises:
            RuntimeError: they do.
        """
        if state["characters"] != self.characters:
            raise RuntimeError("it was trained on text with other characters; module.files have changed")

    def _losses(self, window_bt: torch.Tensor) -> torch.Tensor:
        """The cross entropy of each window's characters after its first, in nats, (B,)."""
        seen_bt, next_bt = window_bt[:, :-1], window_bt[:, 1:]
        places = torch.arange(seen_bt.shape[1], device=window_bt.device)
        x_btc = self.norm(self.blocks(self.embedding(seen_bt) + self.position(places)))
        scores_btv = x_btc @ self.embedding.weight.T
        return nn.functional.cross_entropy(scores_btv.transpose(1, 2), next_bt, reduction="none").mean(dim=1)

    def train_step(self, global_step: int, batch: Any, device: torch.device) -> torch.Tensor:  # noqa: ARG002
        """The mean cross entropy in nats for each character."""
        return self._losses(batch.to(device)).mean()

    def val_step(self, global_step: int, batch: Any, device: torch.device) -> torch.Tensor:  # noqa: ARG002
        """The cross entropy of each window, (B,)."""
        return self._losses(batch.to(device))

    def on_end_val_epoch(self, global_step: int, *outputs: Any, key: str = "default") -> None:  # noqa: ARG002
        """Keeps the mean for the manifest."""
        if outputs:
            self.metrics = {"val_loss": float(outputs[0].mean())}


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)  # GPT-2's
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def _read(files: list[str]) -> str:
    parts, faults = [], []
    for number, name in enumerate(files):
        try:
            with os.fdopen(open_regular(name), encoding="utf-8") as file:
                parts.append(file.read())
        except OSError as error:
            faults.append(Fault(f"module.files[{number}]", f"cannot be read: {error.strerror}: {name}"))
        except UnicodeDecodeError as error:
            faults.append(Fault(f"module.files[{number}]", f"is not UTF-8 at byte {error.start}: {name}"))
    if faults:
        raise ConfigError(faults)
    return "".join(parts)
