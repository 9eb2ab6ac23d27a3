"""Logs each checkpoint to MLflow once it is on the disk, without a wait in the loop."""

import sys

import mlflow
import torch

import marlin_ckpt


def main(directory: str) -> None:
    """Trains ten steps; MLFLOW_TRACKING_URI says where the run is kept."""
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    run = mlflow.start_run()

    def upload(report: marlin_ckpt.SaveReport) -> None:
        """Runs on the thread that has written the file, where no run is active: it is named."""
        client = mlflow.MlflowClient()
        client.log_artifact(run.info.run_id, report.path, "checkpoints")
        for name, value in report.metrics.items():
            client.log_metric(run.info.run_id, name, value, step=report.index)

    with marlin_ckpt.Saver(on_durable=upload) as saver:  # at the end it waits for the last upload, too
        for step in range(1, 11):
            loss = model(torch.randn(16, 8)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % 5 == 0:
                live = {"model": model, "optimizer": optimizer, "step": step}
                saver.save(live, f"{directory}/step_{step}.pt", metrics={"loss": loss.item()})
    mlflow.end_run()


if __name__ == "__main__":
    main(*sys.argv[1:] or ["checkpoints/mlflow"])
