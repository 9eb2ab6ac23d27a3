"""What Lightning writes itself: files, and with two processes a folder."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard

from .launching import launch
from .made import Made, prefixed


class Net(lightning.LightningModule):
    """One linear layer, which a strategy that shards may cut."""

    def __init__(self, width: int = 4, is_sharded: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.layers = torch.nn.Linear(3, width)

    def configure_model(self) -> None:
        if self.hparams["is_sharded"]:
            fully_shard(self.layers, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: Any, _number: int) -> torch.Tensor:
        loss = self.layers(batch[0]).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)]


def _fit(directory: Path, **options: Any) -> lightning.Trainer:
    rows = torch.utils.data.TensorDataset(torch.linspace(0, 1, 12).view(4, 3))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        default_root_dir=directory, accelerator="cpu", max_epochs=3, **quiet, **options
    )
    trainer.fit(Net(is_sharded="strategy" in options), torch.utils.data.DataLoader(rows, batch_size=2))
    return trainer


def make_lightning(directory: Path) -> Made:
    """`epoch=2-step=6.ckpt` of ModelCheckpoint; beside it are an older one and `last.ckpt`."""
    saving = ModelCheckpoint(directory, monitor="loss", save_top_k=2, save_last=True)
    of = _fit(directory, callbacks=[saving]).lightning_module.state_dict()
    path = directory / "epoch=2-step=6.ckpt"
    held = prefixed(of, "state_dict.")
    return Made(
        path=path, layout="lightning", weights=held, step=6, holders=dict.fromkeys(held, (path.name,))
    )


def make_lightning_sharded(directory: Path) -> Made:
    """The folder `epoch=2-step=6.ckpt` of two processes with ModelParallelStrategy."""
    launch(__name__, directory, ranks=2)
    path = directory / "epoch=2-step=6.ckpt"
    of = torch.load(directory / "whole.pt")
    return Made(path=path, layout="lightning-sharded", weights=prefixed(of, "state_dict."), step=6)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    strategy = ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo"
    )
    saver = ModelCheckpoint(target, monitor="loss", save_top_k=-1)
    fitted = _fit(
        target, callbacks=[saver], strategy=strategy, devices=2, use_distributed_sampler=False
    ).lightning_module
    whole = {name: one.full_tensor() for name, one in fitted.state_dict().items()}
    if fitted.global_rank == 0:
        torch.save(whole, target / "whole.pt")
