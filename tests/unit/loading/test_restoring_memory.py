"""Restoring needs no second copy of the state, and leaves tensors in the memory that they have."""

from __future__ import annotations

import subprocess
import sys
import types

import torch

from marlin_ckpt import Checkpoint
from tests.support.restored import net, saved, trained


def test_what_is_restored_stays_in_the_memory_that_it_had(make_checkpointer):
    checkpointer = make_checkpointer()
    module = net()
    optimizer = trained(module)
    saved(checkpointer, module, optimizer)
    moments = [state["exp_avg"] for state in optimizer.state_dict()["state"].values()]
    before = [tensor.data_ptr() for tensor in (*module.state_dict().values(), *moments)]
    loaded = checkpointer.load(into=Checkpoint(module, {"optimizer": optimizer}))
    moments = [state["exp_avg"] for state in optimizer.state_dict()["state"].values()]
    assert [tensor.data_ptr() for tensor in (*module.state_dict().values(), *moments)] == before
    assert [tensor.data_ptr() for tensor in loaded.module_interface_state.values()] == before[: -len(moments)]


def test_memory_beside_the_live_tensor_is_not_touched(make_checkpointer):
    checkpointer = make_checkpointer()
    checkpointer.save(Checkpoint({"x": torch.ones(8)}, None, None), 0)
    whole = torch.zeros(24)
    checkpointer.load(into=Checkpoint({"x": whole[8:16]}))
    assert whole.tolist() == [0] * 8 + [1] * 8 + [0] * 8


MEMORY = """
import sys, torch
from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
module = torch.nn.Sequential(*(torch.nn.Linear(2048, 2048, bias=False) for _ in range(12)))
checkpointer = DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=sys.argv[1], load_dir=sys.argv[1]))
checkpointer.save(Checkpoint(module.state_dict(), {}, {}), 0)
def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) << 10
checkpointer.load(into=Checkpoint(module))
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
checkpointer.load(into=Checkpoint(module))
print(status("VmHWM") - before, sum(p.nbytes for p in module.parameters()))
"""


def test_restoring_takes_less_than_a_tenth_of_the_states_size_of_memory(repository, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)],
        env={"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=120,
        check=True,
    )
    extra, size = map(int, done.stdout.split())
    assert size > 200e6
    assert extra < size / 10


def test_an_object_with_a_name_of_any_length_is_not_made_before_its_tensors_are_read(
    make_checkpointer, monkeypatch
):
    class Doubled:
        def __init__(self):
            self.values = torch.arange(4000.0)

        def __getstate__(self):
            return {"values": self.values}

        def __setstate__(self, state):
            self.values = state["values"].clone()

    name = "long" * 40
    Doubled.__module__, Doubled.__qualname__ = name, "Doubled"
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(Doubled=Doubled))
    checkpointer = make_checkpointer()
    checkpointer.save(Checkpoint({"x": Doubled()}, {}, {}), 0)
    with torch.serialization.safe_globals([Doubled]):
        loaded = checkpointer.load()
    assert torch.equal(loaded.module_interface_state["x"].values, torch.arange(4000.0))


def test_an_optimizer_of_hundreds_of_parameters_is_restored_into_the_memory_that_it_had(make_checkpointer):
    checkpointer = make_checkpointer()
    module = torch.nn.ParameterList(torch.ones(2) for _ in range(300))
    saved(checkpointer, module, trained(module))
    before = [parameter.data_ptr() for parameter in module]
    loaded = checkpointer.load(into=Checkpoint(module))
    assert [tensor.data_ptr() for tensor in loaded.module_interface_state.values()] == before
