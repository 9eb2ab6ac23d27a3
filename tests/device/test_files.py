"""Files of what is on a device: what torch brings back, there and on the CPU, with and without a device."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from marlin_ckpt import Checkpoint, CheckpointDirectory
from tests.support.async_runs import checkpointer
from tests.support.clones import Clones
from tests.support.descriptions import describe
from tests.support.device_runs import DeviceRun, fresh, without_devices
from tests.support.oracle import differences
from tests.support.shared_saves import LARGE, origins
from tests.support.states import DTYPES
from tests.support.tensors import TENSORS, bits

pytestmark = pytest.mark.filterwarnings("ignore")  # half of these kinds are experimental, which torch says


def moved(state: Any, device: torch.device) -> Any:
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda one: one.to(device), state)


@pytest.mark.parametrize(
    "kind", ["shared", "sparse", "sparse rows", "quantized", "with attributes", "nested"]
)
def test_a_state_on_a_device_comes_back_there_and_to_the_cpu_for_our_reader(device, kind):
    state = moved(TENSORS[kind](), device)
    base = torch.arange(40.0, device=device)
    parameter = torch.nn.Parameter(base)
    assert differences([state, base, base[3:9:2], parameter, parameter, base.cpu()]) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_of_any_dtype_on_a_device_comes_back(device, dtype):
    assert differences(moved(bits(dtype), device)) == []


def odd(device: torch.device) -> dict[str, torch.Tensor]:
    """Tensors that share memory, have none, or are laid out in odd ways."""
    base = torch.arange(60.0, device=device)
    pairs = torch.randn(6, dtype=torch.complex64, device=device)
    return {
        "base": base,
        "view": base[7:31:3],
        "matrix": base[:20].view(4, 5).t(),
        "rows": base[3:4].expand(5, 1),
        "tied": torch.nn.Parameter(base),
        "nothing": torch.empty(0, device=device),
        "no rows": torch.empty(0, 7, dtype=torch.bfloat16, device=device),
        "scalar": torch.tensor(4.5, device=device),
        "conjugate": pairs.conj(),
        "negative": torch.randn(6, dtype=torch.complex64, device=device).conj().imag,
        "half": torch.randn(33, device=device).to(torch.bfloat16),
        "eighth": torch.randn(33, device=device).to(torch.float8_e4m3fn),
        "here": torch.arange(9),
    }


@pytest.mark.parametrize("is_registered", [True, False])
def test_an_asynchronous_save_writes_of_odd_tensors_what_a_plain_one_writes(tmp_path, device, is_registered):
    state = odd(device)
    optimizer = torch.optim.SGD([state["tied"]], lr=1.0)
    for name, is_async in (("plain", False), ("behind", True)):
        with checkpointer(tmp_path / name, async_save=is_async) as one:
            if is_registered:
                one.register(optimizer)
            one.save(Checkpoint(state, {}, {}), 0)
    plain, behind = (torch.load(tmp_path / name / "model_0.pt") for name in ("plain", "behind"))
    assert describe(behind) == describe(plain)
    assert describe(behind["module_interface_state"]) == describe(state)
    assert behind["module_interface_state"]["half"].device.type == device.type


def test_a_save_behind_a_step_of_all_dtypes_on_a_device_comes_back_as_a_plain_save_of_torch(tmp_path, device):
    """What an optimizer has is copied while the device works, whatever its type."""
    weight = torch.nn.Parameter(torch.zeros(8, device=device))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    moments = {str(dtype): moved(bits(dtype), device) for dtype in DTYPES if hasattr(bits(dtype), "device")}
    optimizer.state[weight] = moments
    checkpoint = Checkpoint({"weight": weight}, {"moments": moments}, {})
    with checkpointer(tmp_path) as one:
        one.register(optimizer)
        torch.save(checkpoint.payload(), tmp_path / "plain.pt")
        one.save(checkpoint, 0)
        weight.grad = torch.ones_like(weight)
        del optimizer.state[weight]
        optimizer.step()
    plain, behind = (torch.load(tmp_path / f"{name}.pt", weights_only=False) for name in ("plain", "model_0"))
    assert describe(behind["trainer_state"]) == describe(plain["trainer_state"])
    assert describe(behind["module_interface_state"]) == describe(plain["module_interface_state"])


@pytest.fixture
def directory_of_two(tmp_path, device):
    """Two checkpoints of a run on a device, and beside them what is in the second one, on the CPU."""
    run = DeviceRun(device)
    with checkpointer(tmp_path / "run") as one:
        one.register(run.optimizer)
        for index in range(2):
            run.step()
            one.save(run.checkpoint(), index)
    payload = run.checkpoint().payload()
    torch.save(moved(payload, torch.device("cpu")), tmp_path / "wanted.pt")
    return tmp_path


_WITHOUT_TORCH = """
import sys
from marlin_ckpt.cli.main import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""


def test_the_command_reads_what_was_on_a_device_without_torch(directory_of_two):
    run = directory_of_two / "run"
    shown = fresh("-c", _WITHOUT_TORCH, "show", str(run / "model_1.pt"), "--json")
    assert shown.returncode == 0, shown.stderr
    assert "0.weight" in shown.stdout
    verified = fresh("-c", _WITHOUT_TORCH, "verify", str(run), "--json")
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.count('"intact"') >= 2, json.loads(verified.stdout)
    compared = fresh(
        "-c", _WITHOUT_TORCH, "diff", str(run / "model_1.pt"), str(directory_of_two / "wanted.pt")
    )
    assert compared.returncode == 0, compared.stdout + compared.stderr


_LOADS = """
import sys, torch
from tests.support.async_runs import checkpointer, same
from pathlib import Path
here = Path(sys.argv[1])
assert not torch.cuda.is_available()
wanted = torch.load(here / "wanted.pt")
assert same(torch.load(here / "run" / "model_1.pt", map_location="cpu"), wanted)
loaded = checkpointer(here / "run").load().payload()
assert same(loaded["trainer_state"], wanted["trainer_state"])
assert same(loaded["module_interface_state"], wanted["module_interface_state"])
"""


def test_a_process_without_a_device_loads_what_was_on_one(directory_of_two):
    ended = without_devices("-c", _LOADS, str(directory_of_two))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("is_async", [False, True])
def test_what_has_not_changed_on_a_device_is_shared_with_an_earlier_file(
    tmp_path, device, monkeypatch, is_async
):
    clones = Clones().put_in(monkeypatch)
    state = {name: torch.randn(LARGE, device=device) for name in ("frozen", "trained")}
    with CheckpointDirectory(tmp_path, share_unchanged=True, asynchronous=is_async) as directory:
        for index in range(3):
            state["trained"][-1] += 1
            directory.save(state, index)
            directory.wait()
    assert clones.shared[1:]  # the first is the trial
    assert origins(tmp_path / "model_2.pt") == {"data/0": 1, "data/1": 3}
    assert describe(torch.load(tmp_path / "model_2.pt")) == describe(state)
