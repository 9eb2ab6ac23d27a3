"""Every maker by a name: parametrize tests over these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import accelerate, dcp_folders, deepspeed, hub, hugging_face, lightning, plain, trainer
from .made import Made

CHECKPOINTS: dict[str, Callable[[Path], Made]] = {
    "hf-single": hugging_face.make_single,
    "hf-single-bin": hugging_face.make_single_bin,
    "hf-sharded": hugging_face.make_sharded,
    "hf-sharded-bin": hugging_face.make_sharded_bin,
    "hf-tied": hugging_face.make_tied,
    "hf-adapter": hugging_face.make_adapter,
    "hf-cached": hub.make_cached,
    "hf-cached-shared": hub.make_cached_shared,
    "trainer": trainer.make_trainer,
    "trainer-only-model": trainer.make_trainer_only_model,
    "trainer-of-ranks": trainer.make_trainer_of_ranks,
    "trainer-adapter": trainer.make_trainer_adapter,
    "trainer-fsdp": trainer.make_trainer_fsdp,
    "trainer-deepspeed": trainer.make_trainer_deepspeed,
    "accelerate": accelerate.make_accelerate,
    "accelerate-of-two": accelerate.make_accelerate_of_two,
    "accelerate-bin": accelerate.make_accelerate_bin,
    "accelerate-named": accelerate.make_accelerate_named,
    "accelerate-fsdp": accelerate.make_accelerate_fsdp,
    "accelerate-full-fsdp": accelerate.make_accelerate_full_fsdp,
    "lightning": lightning.make_lightning,
    "lightning-sharded": lightning.make_lightning_sharded,
    "lightning-fsdp": lightning.make_lightning_fsdp,
    "dcp": dcp_folders.make_dcp,
    "dcp-of-one": dcp_folders.make_dcp_of_one,
    "dcp-old": dcp_folders.make_old_dcp,
    "dcp-in-threads": dcp_folders.make_dcp_in_threads,
    "dcp-apart": dcp_folders.make_dcp_apart,
    "dcp-merged": dcp_folders.make_merged,
    "dcp-hugging-face": dcp_folders.make_hugging_face_shards,
    "torchtitan": dcp_folders.make_torchtitan,
    "megatron": dcp_folders.make_megatron,
    "deepspeed": deepspeed.make_deepspeed,
    "deepspeed-zero3": deepspeed.make_zero3,
    "deepspeed-fp16": deepspeed.make_zero_in_fp16,
    "nanogpt": plain.make_nanogpt,
    "timm": plain.make_timm,
    "ignite": plain.make_ignite,
    "ignite-model": plain.make_ignite_model,
}


def _steps(maker: Callable[..., Made], *steps: int) -> Callable[[Path], list[Made]]:
    return lambda directory: [maker(directory, step=step) for step in steps]


RUNS: dict[str, Callable[[Path], list[Made]]] = {  # several checkpoints in one directory, the newest last
    "trainer": _steps(trainer.make_trainer, 2, 4, 10),
    "trainer-only-model": _steps(trainer.make_trainer_only_model, 2, 4, 10),
    "trainer-fsdp": _steps(trainer.make_trainer_fsdp, 2, 4),
    "accelerate": _steps(accelerate.make_accelerate, 1, 2, 10),
    "lightning": lambda directory: [
        lightning.make_lightning(directory, step=step, epoch=epoch)
        for epoch, step in ((1, 4), (2, 6), (10, 22))
    ],
    "lightning-sharded": _steps(lightning.make_lightning_sharded, 4, 6),
    "torchtitan": _steps(dcp_folders.make_torchtitan, 2, 4, 10),
    "megatron": _steps(dcp_folders.make_megatron, 2, 4, 10),
    "deepspeed": _steps(deepspeed.make_deepspeed, 2, 4, 10),
    "ignite": _steps(plain.make_ignite, 2, 4, 10),
}
