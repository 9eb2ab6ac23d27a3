"""The adapters that write files let these share what has not changed, with the real packages."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch

from marlin_ckpt import Status, verify
from tests.support.clones import BLOCK, Clones
from tests.support.shared_saves import LARGE, origins

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning
    from ignite.engine import Engine, Events
    from ignite.handlers import Checkpoint
    from lightning.pytorch.callbacks import ModelCheckpoint

    from marlin_ckpt.integrations.ignite import MarlinSaver
    from marlin_ckpt.integrations.lightning import MarlinCheckpointIO
    from tests.support.lightning_runs import quieten

pytestmark = pytest.mark.filterwarnings("ignore:::lightning", "ignore:::torch")
MODES = pytest.mark.parametrize("asynchronous", [False, True])
SCORES = [0.9, 0.5, 0.8, 0.95]  # of two that stay, the second goes when the third is saved


class Adapted(torch.nn.Module):
    """A frozen layer of more than a MiB, and a small one that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Linear(LARGE, 1, bias=False).requires_grad_(False)
        self.adapter = torch.nn.Linear(1, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.adapter(self.backbone(rows))


class Lit(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = Adapted()

    def training_step(self, rows: torch.Tensor, _number: int) -> torch.Tensor:
        self.log("score", torch.tensor(SCORES[self.trainer.global_step % len(SCORES)]))
        return self.model(rows).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.adapter.parameters())


def lightning_files(directory: Path, *, asynchronous: bool, **options: object) -> dict[int, Path]:
    """Trains for four steps, each of which is saved; the files that are left, by their steps."""
    quieten()
    plugin = pickle.loads(pickle.dumps(MarlinCheckpointIO(async_save=asynchronous, share_unchanged=True)))
    trainer = lightning.Trainer(
        callbacks=[ModelCheckpoint(directory, every_n_train_steps=1, **options)],
        default_root_dir=directory, enable_model_summary=False, enable_progress_bar=False, logger=False,
        max_steps=4, plugins=[plugin], accelerator="cpu",
    )  # fmt: skip
    trainer.fit(Lit(), torch.utils.data.DataLoader(torch.ones(4, LARGE)))
    return {int(re.search(r"step=(\d+)", path.name)[1]): path for path in directory.glob("epoch*.ckpt")}


def ignite_files(directory: Path, *, asynchronous: bool, **options: object) -> dict[int, Path]:
    model = Adapted()
    optimizer = torch.optim.AdamW(model.adapter.parameters())

    def step(_engine: Engine, _batch: int) -> None:
        model(torch.ones(1, LARGE)).sum().backward()
        optimizer.step()

    engine = Engine(step)
    with MarlinSaver(directory, asynchronous=asynchronous, share_unchanged=True) as saver:
        handler = Checkpoint({"model": model, "optimizer": optimizer}, saver, **options)
        engine.add_event_handler(Events.EPOCH_COMPLETED, handler)
        engine.run([0], max_epochs=4)
    return {int(path.name.split("_")[1].removesuffix(".pt")): path for path in directory.glob("*.pt")}


def copies(files: dict[int, Path]) -> dict[int, int]:
    """The save that wrote the frozen layer of each file, which is whole."""
    assert {verify(path).status for path in files.values()} == {Status.INTACT}
    for path in files.values():
        found = torch.load(path)
        [weight] = [
            one for one in (found.get("state_dict") or found["model"]).values() if one.numel() == LARGE
        ]
        assert weight.isfinite().all()
    return {step: found["data/0"] for step in sorted(files) for found in [origins(files[step])]}


def assert_shared_twice(clones: Clones) -> None:
    """In four saves, behind the trial whether anything can be shared."""
    assert [size for _, size in clones.shared] == [BLOCK, *[4 * LARGE // BLOCK * BLOCK] * 2]


@MODES
def test_files_of_lightning_share_what_is_frozen_and_two_copies_of_it_stay(
    tmp_path: Path, clones: Clones, asynchronous: bool
) -> None:
    files = lightning_files(tmp_path, asynchronous=asynchronous, save_top_k=-1)
    assert copies(files) == {1: 1, 2: 2, 3: 1, 4: 2}
    assert_shared_twice(clones)


def test_of_two_that_lightning_keeps_neither_shares_with_the_other(tmp_path: Path, clones: Clones) -> None:
    files = lightning_files(tmp_path, asynchronous=False, save_top_k=2, monitor="score", mode="max")
    assert copies(files) == {1: 1, 4: 2}
    assert_shared_twice(clones)


@MODES
def test_files_of_ignite_share_what_is_frozen_and_two_copies_of_it_stay(
    tmp_path: Path, clones: Clones, asynchronous: bool
) -> None:
    files = ignite_files(
        tmp_path,
        asynchronous=asynchronous,
        n_saved=None,
        global_step_transform=lambda one, _: one.state.epoch,
    )
    assert copies(files) == {1: 1, 2: 2, 3: 1, 4: 2}
    assert_shared_twice(clones)


@MODES
def test_of_two_that_ignite_keeps_neither_shares_with_the_other(
    tmp_path: Path, clones: Clones, asynchronous: bool
) -> None:
    files = ignite_files(
        tmp_path, asynchronous=asynchronous, n_saved=2, global_step_transform=lambda one, _: one.state.epoch,
        score_function=lambda one: SCORES[one.state.epoch - 1],
    )  # fmt: skip
    assert copies(files) == {1: 1, 4: 2}
    assert_shared_twice(clones)
