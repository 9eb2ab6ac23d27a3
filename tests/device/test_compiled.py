"""Compiled modules and compiled steps on a device."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

from marlin_ckpt import Checkpoint
from tests.support.async_runs import checkpointer, same
from tests.support.device_runs import DeviceRun

pytestmark = pytest.mark.filterwarnings("ignore")  # of the compiler, which warns of itself


@pytest.fixture(params=["aot_eager", "inductor"])
def backend(request, device):
    if request.param == "inductor" and (device.type == "cpu" or not shutil.which("gcc")):
        pytest.skip("takes a device and a C compiler")
    torch._dynamo.reset()
    return request.param


def test_a_compiled_module_is_saved_as_it_was_and_another_goes_on_from_it(tmp_path, device, backend):
    runs = [DeviceRun(device, fused=True) for _ in range(2)]
    for run in runs:
        run.module = torch.compile(run.module, backend=backend)
    wanted = {}
    with checkpointer(tmp_path) as one:
        one.register(runs[0].optimizer)
        for index in range(4):
            runs[0].step()
            wanted[index] = copy.deepcopy(runs[0].checkpoint().payload())
            one.save(runs[0].checkpoint(), index)
        runs[1].step()
        one.load(into=Checkpoint(runs[1].module, {"optimizer": runs[1].optimizer}))
    for index, payload in wanted.items():
        found = torch.load(tmp_path / f"model_{index}.pt")
        assert all(same(found[part], state) for part, state in payload.items()), index
    for run in runs:
        torch.manual_seed(3)
        run.step()
    assert same(runs[0].checkpoint().payload(), runs[1].checkpoint().payload())


def test_a_compiled_step_right_after_a_save_is_never_in_its_file(tmp_path, device, backend):
    run, wanted = DeviceRun(device), {}
    step = torch.compile(run.optimizer.step, backend=backend, fullgraph=False)
    run.step()
    with checkpointer(tmp_path) as one:
        one.register(run.optimizer)
        for index in range(4):
            run.forward()
            wanted[index] = copy.deepcopy(run.checkpoint().payload())
            one.save(run.checkpoint(), index)
            step()
            run.optimizer.zero_grad()
    files = [index for index in wanted if (tmp_path / f"model_{index}.pt").exists()]
    assert files  # the first may be given up, since its step is not noticed
    for index in files:
        found = torch.load(tmp_path / f"model_{index}.pt")
        assert all(same(found[part], state) for part, state in wanted[index].items()), index
