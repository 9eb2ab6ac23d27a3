"""Trains a compiled model with a fused optimizer, and saves behind the loop; run again, it goes on."""

import os
import sys

import torch

import marlin_ckpt

STEPS, EVERY = 20, 5


def main(path: str, backend: str = "inductor") -> None:
    """Trains what is left of the steps."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    live = {"model": model, "optimizer": optimizer}  # the model itself: its names have no `_orig_mod.`
    step = 0
    if os.path.exists(path):
        step = marlin_ckpt.load(path, into=live)["step"]
    print(f"from step {step}")
    compiled = torch.compile(model, backend=backend)
    with marlin_ckpt.Saver(on_durable=lambda report: print(f"saved step {report.index}")) as saver:
        if step:
            saver.continue_run(path)  # what is saved from here on is of the same run
        saver.register(optimizer)  # its parameters are copied until its next step
        while step < STEPS:
            x = torch.randn(64, 16)
            loss = (compiled(x) - x.sum(1, keepdim=True)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % EVERY == 0:
                saver.save({**live, "step": step}, path, index=step, metrics={"loss": loss.item()})


if __name__ == "__main__":
    main(*sys.argv[1:] or ["checkpoints/compiled/last.pt"])
