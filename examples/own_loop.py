"""Trains a small language model on a text; killed and run again, it ends with the same weights."""

import sys

import torch
from torch import nn

from marlin_ckpt import CheckpointDirectory, CheckpointNotFoundError

STEPS, EVERY, BATCH, LENGTH, WIDTH = 60, 5, 8, 32, 32


class LooksBack(nn.TransformerEncoder):
    """Layers in which no place of a text sees the places after it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], x.device)
        return super().forward(x, mask, is_causal=True)


def main(text: str, directory: str, device: str = "cpu") -> None:
    """Trains, saves each few steps, and goes on from the newest checkpoint that is intact."""
    torch.manual_seed(0)
    with open(text, "rb") as file:
        data = torch.tensor([*file.read()])
    draws = torch.Generator().manual_seed(1)  # which pieces of the text come next: the position in the data
    layers = LooksBack(nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, batch_first=True), 2)
    model = nn.Sequential(nn.Embedding(256, WIDTH), layers, nn.Linear(WIDTH, 256)).to(device)
    weights, others = ([p for p in model.parameters() if (p.dim() > 1) == matrix] for matrix in (True, False))
    optimizer = torch.optim.AdamW([{"params": weights}, {"params": others, "weight_decay": 0.0}], lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    live = {"model": model, "optimizer": optimizer, "schedule": schedule}
    with CheckpointDirectory(directory, keep=3, asynchronous=True) as checkpoints:
        try:
            found = checkpoints.load("latest", into=live)
        except CheckpointNotFoundError:
            done = 0
        else:  # what is in `live` is restored; all else is in `found` as it was saved
            done = found["step"]
            draws.set_state(found["draws"])
            torch.set_rng_state(found["random"])  # of dropout; on a GPU torch.cuda.set_rng_state
        for step in range(done + 1, STEPS + 1):
            places = torch.randint(len(data) - LENGTH, (BATCH, 1), generator=draws) + torch.arange(LENGTH)
            with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
                scores = model(data[places].to(device)).flatten(0, 1)
                loss = nn.functional.cross_entropy(scores, data[places + 1].to(device).flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if step % EVERY == 0:
                state = {"step": step, "draws": draws.get_state(), "random": torch.get_rng_state(), **live}
                checkpoints.save(state, step, metrics={"loss": loss.item()})
                print(f"step {step} loss {loss.item():.4f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:] or ["configs/sonnets.txt", "checkpoints/own"])
