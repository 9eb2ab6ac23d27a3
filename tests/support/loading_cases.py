"""What the ranks of tests/unit/distributed/test_loading_cases.py do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.tensor import DTensor

import marlin_ckpt
from marlin_ckpt.distributed.planning.plans import SavePlans
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.saving import save_sharded
from marlin_ckpt.errors import MarlinError
from tests.support.loading_ranks import differences, made, manifest, step, stepped, whole


def run(place: str) -> dict[str, Any]:
    """Each case in its turn; what it returned."""
    net = made("rows", seed=1)
    optimizer = stepped(net)
    ranks = Ranks()
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
    save_sharded(state, f"{place}/own_1.dcp", ranks, SavePlans(), manifest(1))
    save_sharded({"net": whole(net.state_dict())}, f"{place}/plain_1.dcp", ranks, SavePlans(), manifest(1))
    by_names = {"net": get_model_state_dict(net), "optimizer": get_optimizer_state_dict(net, optimizer)}
    dcp.save(by_names, checkpoint_id=f"{place}/names")
    expected = whole(state)
    return {name: case(place, expected) for name, case in CASES.items()}


def lacks(place: str, _: Any) -> list[Any]:
    """Names that the checkpoint lacks, some that the module lacks, and two shapes."""
    net = made("rows", seed=2)
    before = whole(net.state_dict())
    net.extra = torch.nn.Linear(2, 2)
    del net.norm
    net.register_buffer("scalar", torch.zeros(3))
    into = {"net": net, "optimizer": {"state": {0: {"exp_avg": torch.zeros(4, 4)}}}}
    said = []
    try:
        marlin_ckpt.load(f"{place}/own_1.dcp", into=into)
    except MarlinError as error:
        said = [type(error).__name__, *error.differences]
    is_unchanged = not differences(whole(net.inner.weight.detach()), before["inner.weight"])
    report = marlin_ckpt.load(f"{place}/own_1.dcp", into=into, strict=False)
    is_loaded = bool(differences(whole(net.inner.weight.detach()), before["inner.weight"]))
    return [
        said,
        is_unchanged,
        sorted(report.missing),
        sorted(report.unexpected),
        report.mismatched,
        is_loaded,
    ]


def converts(place: str, expected: Any) -> list[Any]:
    """Another dtype is converted, here and there."""
    net = made("rows", seed=2).to(torch.bfloat16)
    marlin_ckpt.load(f"{place}/own_1.dcp", into={"net": net})
    return differences(
        whole(net.state_dict())["inner.weight"], expected["net"]["inner.weight"].to(torch.bfloat16)
    )


def strips(place: str, expected: Any) -> list[Any]:
    net = made("rows", seed=2)
    wrapped = {f"module.{name}": one for name, one in net.state_dict().items()}
    save_sharded(wrapped, f"{place}/wrapped_1.dcp", Ranks(), SavePlans(), manifest(1))
    other = made("columns", seed=3)
    marlin_ckpt.load(f"{place}/wrapped_1.dcp", into=other, strip_prefix="module.")
    del expected
    return differences(whole(other.state_dict()), whole(net.state_dict()))


def spares(place: str, _: Any) -> list[Any]:
    """Of several ranks none reads the moments that no optimizer takes."""
    net = made("rows", seed=2)
    loaded = marlin_ckpt.load(f"{place}/own_1.dcp", into={"net": net})
    moments = loaded["optimizer"]["state"][0]["exp_avg"]
    step_is_here = not loaded["optimizer"]["state"][0]["step"].is_meta
    whole_state = marlin_ckpt.load(f"{place}/own_1.dcp")
    return [moments.is_meta, step_is_here, whole_state["optimizer"]["state"][0]["exp_avg"].is_meta]


def by_names(place: str, expected: Any) -> list[Any]:
    """A stock checkpoint whose optimizer's state is keyed by the names of parameters."""
    net = made("columns", seed=2)
    optimizer = torch.optim.AdamW(net.parameters())
    marlin_ckpt.load(f"{place}/names", into={"net": net, "optimizer": optimizer})
    found = differences(whole(net.state_dict()), expected["net"])
    state = whole(optimizer.state_dict())["state"]
    found += differences(state[0]["exp_avg"], expected["optimizer"]["state"][0]["exp_avg"])
    step(net, optimizer)
    return found


def plain_into_parts(place: str, expected: Any) -> list[Any]:
    """What was saved whole, once, is loaded into parts."""
    net = made("rows", seed=2)
    marlin_ckpt.load(f"{place}/plain_1.dcp", into={"net": net})
    is_part = isinstance(net.inner.weight, DTensor)
    return [*differences(whole(net.state_dict()), expected["net"]), is_part]


def into_tensors(place: str, expected: Any) -> list[Any]:
    """Single tensors as live objects, and containers of them."""
    like = made("rows", seed=2).state_dict()
    into = {"net": {"inner.weight": like["inner.weight"], "scalar": torch.zeros(())}}
    marlin_ckpt.load(f"{place}/own_1.dcp", into=into)
    whole_into = whole(into)["net"]
    return [text for name in whole_into for text in differences(whole_into[name], expected["net"][name])]


def vanished(place: str, _: Any) -> list[Any]:
    found = []
    for path in (f"{place}/none_1.dcp", f"{place}/none"):
        try:
            marlin_ckpt.load(path)
        except MarlinError as error:
            found.append(type(error).__name__)
    return found


def newest_of_directory(place: str, expected: Any) -> list[Any]:
    """The newest of a directory, which one rank finds damaged."""
    directory = Path(place) / "run"
    ranks, plans = Ranks(), SavePlans()
    for number in (1, 2):
        state = {"net": made("rows", seed=number).state_dict()}
        save_sharded(state, directory / f"own_{number}.dcp", ranks, plans, manifest(number))
    if dist.get_rank() == 0:
        shard = directory / "own_2.dcp" / "__1_0.distcp"
        data = bytearray(shard.read_bytes())
        data[600:3000] = bytes(2400)
        shard.write_bytes(data)
    dist.barrier()
    net = made("columns", seed=5)
    logging.disable(logging.CRITICAL)
    marlin_ckpt.load(directory, into={"net": net})
    logging.disable(logging.NOTSET)
    del expected
    return differences(whole(net.state_dict()), whole(made("rows", seed=1).state_dict()))


_ALL = (lacks, converts, strips, spares, by_names, plain_into_parts, into_tensors, vanished)
CASES = {one.__name__: one for one in (*_ALL, newest_of_directory)}
