"""Changed bits in checkpoints that lie in a store: none is loaded."""

from __future__ import annotations

import random

import torch

import marlin_ckpt
from marlin_ckpt import MarlinError
from marlin_ckpt.storage.s3.store import open_store

# Longer than what one request brings of the end, so that tensors come by ranges of their own, too.
STATE = {
    "large": torch.arange(100_000.0),
    "small": [torch.full((n,), float(n)) for n in range(1, 20)],
    "epoch": 7,
    "text": "abc" * 100,
}


def same(loaded) -> bool:
    return (
        loaded["epoch"] == 7
        and loaded["text"] == STATE["text"]
        and torch.equal(loaded["large"], STATE["large"])
        and all(map(torch.equal, loaded["small"], STATE["small"]))
    )


def test_no_changed_bit_of_an_object_is_loaded(s3, cases):
    flips, url = cases(60, 2000), f"{s3}/model_1.pt"
    marlin_ckpt.save(STATE, url)
    rng, refused, silent = random.Random(20261127), 0, []
    with open_store(s3) as store:
        with store.open("model_1.pt") as source:
            whole = source.read(0, source.size_bytes)
        for number in range(flips):
            # Every other one in what is not the large tensor's: there are the directory and the manifest.
            at = rng.randrange(len(whole)) if number % 2 else len(whole) - 1 - rng.randrange(20_000)
            changed = bytearray(whole)
            changed[at] ^= 1 << rng.randrange(8)
            key = f"{store._prefix}model_1.pt"
            store._client.control.put_object(Bucket=store._bucket, Key=key, Body=bytes(changed))
            try:
                if not same(marlin_ckpt.load(url)):
                    silent.append(at)
            except MarlinError:
                refused += 1
    assert silent == []
    assert refused > 0.9 * flips
