"""Runs the steps of an epoch with automatic mixed precision."""

from collections.abc import Mapping
from typing import Any

import torch

from marlin_ckpt.training import setting
from marlin_ckpt.training.backend import SingleProcess, TrainerBackendArguments
from marlin_ckpt.training.module import Stage


class SingleProcessAmp(SingleProcess):
    """Runs each step in this process with automatic mixed precision; with `float16`, scales the losses."""

    def init(self, args: TrainerBackendArguments) -> None:
        """Takes what it works on, and chooses the type."""
        super().init(args)
        kind = args.device.type
        has_bfloat16 = kind != "cuda" or torch.cuda.is_bf16_supported()
        best = "bfloat16" if has_bfloat16 else "float16"
        self._dtype: torch.dtype = getattr(torch, best if args.amp_dtype == "auto" else args.amp_dtype)
        if self._dtype == torch.float16:
            setting.expect_schedules_first()
        self._scaler = torch.amp.GradScaler(kind, enabled=self._dtype == torch.float16)

    def _forward(self, stage: Stage, global_step: int, batch: Any) -> Any:
        with torch.autocast(self.args.device.type, self._dtype):
            return super()._forward(stage, global_step, batch)

    def _backward(self, loss: torch.Tensor) -> None:
        super()._backward(self._scaler.scale(loss))

    def _step(self) -> None:
        for optimizer in self.args.optimizers:
            self._scaler.unscale_(optimizer)
        self._clip()
        is_scaled = [_has_gradient(optimizer) for optimizer in self.args.optimizers]
        for optimizer, is_one in zip(self.args.optimizers, is_scaled, strict=True):
            if is_one:
                self._scaler.step(optimizer)
            else:  # the scaler refuses an optimizer without gradients
                optimizer.step()
        if any(is_scaled):
            self._scaler.update()

    def get_state(self) -> dict[str, Any]:
        """Also the scale of the losses; empty with `bfloat16`, which needs none."""
        return {**super().get_state(), "scaler": self._scaler.state_dict()}

    def update_state(self, state: Mapping[str, Any] | None) -> None:
        """Takes over what `get_state` returned once."""
        super().update_state(state)
        if state and state.get("scaler") and self._scaler.is_enabled():
            self._scaler.load_state_dict(dict(state["scaler"]))


def _has_gradient(optimizer: torch.optim.Optimizer) -> bool:
    return any(one.grad is not None for group in optimizer.param_groups for one in group["params"])
