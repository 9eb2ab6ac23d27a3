"""A loop that keeps its checkpoints in a bucket, since the disk goes away with the machine.

    AWS_ENDPOINT_URL=http://127.0.0.1:8333 python examples/into_a_bucket.py s3://bucket/runs/loop

Started again, on this machine or another, it goes on from the newest checkpoint that is intact. boto3 finds
the endpoint, the region and the credentials: in the environment, in ~/.aws, or by the role of the machine.
"""

import sys

import torch

from marlin_ckpt import CheckpointDirectory, CheckpointNotFoundError

STEPS, PERIOD = 60, 10


def main(url: str) -> None:
    """Trains, and saves behind the loop; the last save is in the bucket when this returns.

    Args:
        url: of the directory of checkpoints, `s3://bucket/prefix`.
    """
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    live = {"model": model, "optimizer": optimizer}
    with CheckpointDirectory(url, keep=2, asynchronous=True) as checkpoints:
        try:
            first = checkpoints.load(into=live)["step"]
            print("from step", first)
        except CheckpointNotFoundError:  # a bucket that does not answer is another error
            first = 0
        for step in range(first + 1, STEPS + 1):
            x = torch.randn(64, 8, generator=torch.Generator().manual_seed(step))
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % PERIOD == 0:
                checkpoints.save({**live, "step": step}, step, metrics={"loss": loss.item()})
                print("step", step)


if __name__ == "__main__":
    main(sys.argv[1])
