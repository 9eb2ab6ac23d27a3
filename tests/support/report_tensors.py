"""The tensors of made-up reports: their names, norms, sizes and values."""

from __future__ import annotations

import math
import random

from marlin_ckpt.operations.report.values import Histogram, Movement, Size


def tensors(number: int) -> list[str]:
    """Names as a transformer has them."""
    parts = (
        "norm.weight",
        "attn.qkv.weight",
        "attn.out.weight",
        "norm2.weight",
        "mlp.up.weight",
        "mlp.down.weight",
    )
    named = ["embed.weight", *(f"layers.{one // 6}.{parts[one % 6]}" for one in range(number)), "head.weight"]
    return [*named[: number - 1], "head.weight"][:number]


def movement(rng: random.Random, names: list[str], columns: list[int], *, bad: bool) -> Movement:
    """Norms that move ever less, with a spike; a layer that dies; NaN at the end."""
    rows, norms = [], []
    for row, _ in enumerate(names):
        change = [
            None
            if not place
            else math.exp(rng.gauss(-3 - 2 * place / len(columns), 0.6))
            * (9 if place == 3 * len(columns) // 4 else 1)
            for place in range(len(columns))
        ]
        rows.append(change)
        norms.append([20 + row + place * 0.01 for place in range(len(columns))])
    nans = [[0] * len(columns) for _ in names]
    infinities = [[0] * len(columns) for _ in names]
    dead = [[False] * len(columns) for _ in names]
    if bad and len(names) > 6 and len(columns) > 2:
        nans[5][-1], nans[4][-1], infinities[6][-2] = 12_345, 3, 2
        norms[5][-1] = norms[4][-1] = math.nan
        norms[6][-2] = math.inf
        for row, column in ((5, -1), (4, -1), (6, -2)):
            rows[row][column] = None
        for column in range(len(columns) // 2, len(columns)):
            dead[1][column] = True
            rows[1][column] = 0.0
    return Movement(
        tensors=tuple(names),
        columns=tuple(columns),
        change=tuple(map(tuple, rows)),
        norms=tuple(map(tuple, norms)),
        nans=tuple(map(tuple, nans)),
        infinities=tuple(map(tuple, infinities)),
        dead=tuple(map(tuple, dead)),
        how="files",
        missing=1 if bad else 0,
    )


def sizes(names: list[str]) -> tuple[Size, ...]:
    """Of the tensors of a module, and of Adam."""
    made = []
    for place, name in enumerate(names):
        shape = (4096, 1024) if "mlp" in name or "embed" in name or "head" in name else (1024, 1024)
        shape = (1024,) if "norm" in name else shape
        size = 4 * math.prod(shape)
        made.append(Size(name=name, group="module", dtype="float32", shape=shape, size_bytes=size))
        for what in ("exp_avg", "exp_avg_sq"):
            made.append(
                Size(name=f"{name}: {what}", group="optimizer", dtype="float32", shape=shape, size_bytes=size)
            )
        if not place:
            made.append(Size(name="rng", group="other", dtype="uint8", shape=(5056,), size_bytes=5056))
    return tuple(made)


def histogram(rng: random.Random, name: str) -> Histogram:
    counts = tuple(int(1e5 * math.exp(-((place - 7.5) ** 2) / (6 + 4 * rng.random()))) for place in range(16))
    return Histogram(tensor=name, counts=counts, low=-0.8 - rng.random(), high=0.9 + rng.random())
