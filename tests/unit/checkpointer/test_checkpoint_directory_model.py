"""A `CheckpointDirectory` and a model of it, through random sequences of saves."""

from __future__ import annotations

import math
import os
import tempfile
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from marlin_ckpt import (
    BestArguments,
    CheckpointDirectory,
    CheckpointNotFoundError,
    RetentionArguments,
)
from marlin_ckpt.saving import lineage
from tests.support.checkpoint_directories import fill_folder, names

LOSSES = st.one_of(st.none(), st.sampled_from([0.0, 1.0, 2.0, -1.0, math.nan, math.inf, -math.inf]))
SAVES = st.lists(st.tuples(st.integers(0, 9), LOSSES, st.booleans()), min_size=1, max_size=8)
RULES = st.one_of(
    st.none(),
    st.integers(1, 3),
    st.builds(RetentionArguments, last=st.integers(1, 2), every=st.integers(2, 4)),
    st.builds(
        RetentionArguments,
        best=st.builds(
            BestArguments,
            metric=st.just("loss"),
            mode=st.sampled_from(["min", "max"]),
            count=st.integers(1, 2),
        ),
    ),
)


class Model:
    """What should be there: of each name its loss, in the order in which they were saved."""

    def __init__(self, keep: RetentionArguments | int | None) -> None:
        self.keep = RetentionArguments(last=keep) if isinstance(keep, int) else keep
        self.there: dict[str, float | None] = {}

    def save(self, name: str, loss: float | None) -> None:
        self.there.pop(name, None)
        self.there[name] = loss
        if self.keep is None:
            return
        wanted = set()
        if self.keep.last is not None:
            wanted |= set(self.ordered()[-self.keep.last :])
        if self.keep.every is not None:
            wanted |= {one for one in self.there if index_of(one) % self.keep.every == 0}
        for rule in self.keep.best_rules():
            wanted |= set(self.best(rule.mode)[: rule.count])
        if not wanted:
            return  # a metric that no checkpoint has: nothing goes
        kept = wanted | {self.ordered()[-1], name}
        self.there = {one: loss for one, loss in self.there.items() if one in kept}

    def ordered(self) -> list[str]:
        saved = list(self.there)
        return sorted(saved, key=lambda one: (index_of(one), saved.index(one)))

    def best(self, mode: str) -> list[str]:
        """Those with a finite loss, the best first; of equal ones the newest."""
        finite = [one for one in reversed(self.ordered()) if self.is_finite(one)]
        return sorted(finite, key=lambda one: self.there[one] * (1 if mode == "min" else -1))

    def is_finite(self, name: str) -> bool:
        loss = self.there[name]
        return loss is not None and math.isfinite(loss)


def index_of(name: str) -> int:
    return int(name.removesuffix(".pt").rpartition("_")[2])


def check(here: CheckpointDirectory, model: Model) -> None:
    ordered = model.ordered()
    assert names(here) == ordered
    assert names([here.latest(), here.latest(intact=False)]) == [ordered[-1]] * 2
    for mode in ("min", "max"):
        best = here.best("loss", mode)
        assert names([best] if best else []) == model.best(mode)[:1]
        if best is None:
            with pytest.raises(CheckpointNotFoundError):
                here.load("best", metric="loss", mode=mode)
        elif best.path.endswith(".pt"):
            assert here.load("best", metric="loss", mode=mode) == index_of(best.path)
    if ordered[-1].endswith(".pt"):
        assert here.load() == index_of(ordered[-1])


@settings(max_examples=60)
@example([(3, 0.0, False), (3, 0.0, True), (3, 1.0, False)], 1)
@example(
    [(5, 1.0, False), (1, None, False), (2, math.nan, True)], RetentionArguments(best=BestArguments("loss"))
)
@given(SAVES, RULES)
def test_iteration_latest_and_best_are_those_of_a_simple_model(
    saves: list[tuple[int, float | None, bool]], keep: Any
):
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as path, pytest.MonkeyPatch.context() as patch:
        here, model = CheckpointDirectory(path, keep=keep), Model(keep)
        for second, (index, loss, is_folder) in enumerate(saves):
            # Two saves may come in one tick of the system's clock.
            patch.setattr(lineage, "now", lambda second=second: f"2026-11-01T00:00:{second:02}.000Z")
            name, metrics = f"model_{index}", None if loss is None else {"loss": loss}
            if is_folder:
                fill_folder(here, name, metrics=metrics)
            else:
                here.save(index, index, metrics=metrics)
                name += ".pt"
            os.utime(os.path.join(path, name), (second, second))
            model.save(name, loss)
            assert names(here) == model.ordered()
        check(here, model)
        if model.keep and (model.best("min") or not model.keep.best_rules()):  # else it is refused
            assert here.prune(dry_run=True).removed == {}
