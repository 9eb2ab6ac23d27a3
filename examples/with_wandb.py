"""Logs each checkpoint to Weights & Biases once it is on the disk, without a wait in the loop."""

import sys

import torch
import wandb

import marlin_ckpt


def main(directory: str) -> None:
    """Trains ten steps; WANDB_MODE=offline needs no account."""
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    run = wandb.init(project="marlin-ckpt", dir=directory)

    def upload(report: marlin_ckpt.SaveReport) -> None:
        """Runs on the thread that has written the file; the next save waits for it."""
        artifact = wandb.Artifact(
            "checkpoint", type="model", metadata={"step": report.index, **report.metrics}
        )
        artifact.add_file(report.path)
        run.log_artifact(artifact)

    with marlin_ckpt.Saver(on_durable=upload) as saver:  # at the end it waits for the last upload, too
        for step in range(1, 11):
            loss = model(torch.randn(16, 8)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % 5 == 0:
                live = {"model": model, "optimizer": optimizer, "step": step}
                saver.save(live, f"{directory}/step_{step}.pt", metrics={"loss": loss.item()})
    run.finish()


if __name__ == "__main__":
    main(*sys.argv[1:] or ["checkpoints/wandb"])
