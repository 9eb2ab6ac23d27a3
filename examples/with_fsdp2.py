"""Trains by FSDP2, started by torchrun; killed and started again, all ranks end with the same weights."""

import contextlib
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from marlin_ckpt import CheckpointDirectory, CheckpointNotFoundError

STEPS, EVERY, BATCH, LENGTH, WIDTH = 60, 5, 8, 32, 32


def main(text: str, directory: str) -> None:
    """Trains, saves each few steps, and goes on from the newest checkpoint that all ranks find intact."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(dist.get_node_local_rank())
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)  # all ranks begin with the same weights
    with open(text, "rb") as file:
        data = torch.tensor([*file.read()])
    parts = [nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(0.1), nn.Linear(WIDTH, 256)]
    model = nn.Sequential(nn.Embedding(256, WIDTH), *parts).to(device)
    for part in (*model, model):
        fully_shard(part)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    torch.manual_seed(rank)  # dropout differs from rank to rank, and so do the batches
    draws = torch.Generator().manual_seed(rank)
    live = {"model": model, "optimizer": optimizer}
    with CheckpointDirectory(directory, keep=3, asynchronous=True) as checkpoints:
        done = 0
        with contextlib.suppress(CheckpointNotFoundError):
            found = checkpoints.load("latest", into=live)
            done = found["step"]
            if own := found["ranks"].get(str(rank)):  # else there were fewer ranks
                draws.set_state(own["draws"])
                torch.set_rng_state(own["random"])  # on a GPU torch.cuda.set_rng_state
        for step in range(done + 1, STEPS + 1):
            places = torch.randint(len(data) - LENGTH, (BATCH, 1), generator=draws) + torch.arange(LENGTH)
            scores = model(data[places].to(device)).flatten(0, 1)
            loss = nn.functional.cross_entropy(scores, data[places + 1].to(device).flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % EVERY == 0:  # what each rank has for itself goes under a key of its own
                own = {"draws": draws.get_state(), "random": torch.get_rng_state()}
                checkpoints.save({"step": step, "ranks": {str(rank): own}, **live}, step)
                if rank == 0:
                    print(f"step {step} loss {loss.item():.4f}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:] or ["configs/sonnets.txt", "checkpoints/fsdp2"])
