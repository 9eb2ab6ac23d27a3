"""How large a checkpoint will be, before its optimizers have stepped."""

from __future__ import annotations

import torch

from marlin_ckpt import Checkpoint
from marlin_ckpt.saving import predicted_size


def test_a_module_that_has_no_sizes_yet_is_no_obstacle(make_checkpointer):
    module = torch.nn.Sequential(torch.nn.Linear(10, 10, bias=False), torch.nn.LazyLinear(4))
    optimizer = torch.optim.AdamW(module.parameters())
    state = Checkpoint(module.state_dict(), {"optimizer": optimizer.state_dict()})
    assert predicted_size.predicted_bytes(state.payload(), [optimizer]) == 3 * 400
    make_checkpointer().check_space(state, [optimizer], 3)
