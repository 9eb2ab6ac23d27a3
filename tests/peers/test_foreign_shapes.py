"""What the packages write has the shape of what tests/support/foreign makes by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import fsdp_utils
from huggingface_hub import scan_cache_dir, try_to_load_from_cache
from torch.distributed.fsdp.fully_sharded_data_parallel import StateDictType

from tests.support.foreign import (
    dcp_folders,
    outlines,
    real_accelerate,
    real_dcp,
    real_lightning,
    real_transformers,
)
from tests.support.foreign.corpus import CHECKPOINTS
from tests.support.foreign.made import Made

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are theirs

REAL: dict[str, Callable[[Path], Made]] = {
    "hf-single": real_transformers.make_single,
    "hf-sharded": real_transformers.make_sharded,
    "hf-tied": real_transformers.make_tied,
    "hf-adapter": real_transformers.make_adapter,
    "trainer": real_transformers.make_trainer,
    "trainer-only-model": real_transformers.make_trainer_only_model,
    "trainer-adapter": real_transformers.make_trainer_adapter,
    "accelerate": real_accelerate.make_accelerate,
    "accelerate-bin": real_accelerate.make_accelerate_bin,
    "accelerate-named": real_accelerate.make_accelerate_named,
    "lightning": real_lightning.make_lightning,
}


def _by_kind(made: Made) -> dict[str, Path]:
    """A file for each name with its numbers left open: the first one."""
    if made.path.is_file():
        return {"": made.path}
    return {outlines.numbered(name): made.path / name for name in reversed(made.files)}


def _strange(ours: Made, real: Made) -> list[str]:
    """What ours has in a file and the real one has not."""
    mine, theirs = _by_kind(ours), _by_kind(real)
    return [
        line
        for name in mine.keys() & theirs.keys()
        for line in outlines.strange(outlines.of_file(mine[name]), outlines.of_file(theirs[name]), name)
    ]


@pytest.mark.parametrize("name", REAL)
def test_a_hand_made_checkpoint_has_the_files_and_the_keys_of_the_real_one(name: str, tmp_path: Path) -> None:
    ours, real = CHECKPOINTS[name](tmp_path / "ours"), REAL[name](tmp_path / "real")
    assert outlines.files(ours) == outlines.files(real)
    assert real.weights
    assert set(real.weights) <= set(real.holders)
    assert (ours.step is None, set(ours.metrics)) == (real.step is None, set(real.metrics))
    assert _strange(ours, real) == []


def test_of_two_models_accelerate_numbers_all_but_the_first(tmp_path: Path) -> None:
    ours, real = (
        CHECKPOINTS["accelerate-of-two"](tmp_path / "ours"),
        real_accelerate.make_accelerate_of_two(tmp_path / "real"),
    )
    assert outlines.files(real) <= outlines.files(ours)  # ours has all that options and hardware may bring
    assert {"model_1.safetensors", "optimizer_1.bin", "scheduler_1.bin"} <= set(real.files)
    assert _strange(ours, real) == []


@pytest.mark.parametrize("name", ["hf-cached", "hf-cached-shared"])
def test_the_hub_takes_the_cache_that_is_made_by_hand_for_its_own(name: str, tmp_path: Path) -> None:
    made = CHECKPOINTS[name](tmp_path)
    info = scan_cache_dir(tmp_path)
    assert info.warnings == []
    (repository,) = info.repos
    assert (repository.repo_id, repository.nb_files) == ("org/name", len(made.files))
    found = try_to_load_from_cache("org/name", made.files[0], cache_dir=tmp_path)
    assert found == str(made.path / made.files[0])


def test_ignite_names_its_files_as_those_that_are_made_by_hand(tmp_path: Path) -> None:
    from ignite.engine import Engine, Events  # its import warns, and warnings are errors outside of tests
    from ignite.handlers import Checkpoint, DiskSaver

    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)  # gives each group an `initial_lr`
    engine = Engine(lambda *_: (net(torch.ones(1, 3)).sum().backward(), optimizer.step()))
    saver = DiskSaver(str(tmp_path / "ignite"), require_empty=False)
    everything = {"model": net, "optimizer": optimizer, "trainer": engine}
    scored = Checkpoint(
        {"model": net}, saver, filename_prefix="best", score_name="val_loss", score_function=lambda _: -0.25,
        global_step_transform=lambda engine, _: engine.state.iteration,
    )  # fmt: skip
    engine.add_event_handler(Events.COMPLETED, Checkpoint(everything, saver))
    engine.add_event_handler(Events.COMPLETED, scored)
    engine.run([0] * 4, max_epochs=2)
    makers = [CHECKPOINTS[name](tmp_path / "ours") for name in ("ignite", "ignite-model")]
    assert {one.path.name for one in makers} == {one.name for one in (tmp_path / "ignite").iterdir()}
    for one in makers:
        theirs = outlines.of_file(tmp_path / "ignite" / one.path.name)
        if one.path.name.startswith("checkpoint"):
            assert outlines.strange(outlines.of_file(one.path), theirs) == []


@functools.cache
def _by_ranks(ranks: int, directory: Path) -> dict[str, Made]:
    return real_dcp.make_by_ranks(directory / str(ranks), ranks=ranks)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


MAKERS: dict[str, Callable[..., Made]] = {
    "dcp": dcp_folders.make_dcp,
    "dcp-apart": functools.partial(dcp_folders.make_dcp, is_together=False),
    "dcp-in-threads": functools.partial(dcp_folders.make_dcp, files_a_rank=2),
    "torchtitan": dcp_folders.make_torchtitan,
}


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("name", MAKERS)
def test_a_hand_made_dcp_folder_has_the_metadata_of_the_real_one(
    name: str, ranks: int, shared: Path, tmp_path: Path
) -> None:
    real = _by_ranks(ranks, shared)[name]
    ours = MAKERS[name](tmp_path, ranks=ranks)
    assert ours.files == real.files
    for file in (one for one in ours.files if one.endswith("metadata")):
        mine, theirs = (outlines.of_metadata(one.path / file) for one in (ours, real))
        assert mine == theirs


def test_the_nested_folders_of_fsdp_are_as_accelerates_own_functions_write_them(
    shared: Path, tmp_path: Path
) -> None:
    net, optimizer = real_dcp.trained(is_sharded=False)
    plugin = SimpleNamespace(
        fsdp_version=2, state_dict_type=StateDictType.SHARDED_STATE_DICT, state_dict_config=None
    )
    alone = SimpleNamespace(num_processes=1, process_index=0)
    fsdp_utils.save_fsdp_model(plugin, alone, net, tmp_path / "theirs")
    fsdp_utils.save_fsdp_optimizer(plugin, alone, optimizer, net, tmp_path / "theirs")
    by_hand = CHECKPOINTS["accelerate-fsdp"](tmp_path).path
    for folder in ("pytorch_model_fsdp_0", "optimizer_0"):
        theirs = outlines.of_metadata(tmp_path / "theirs" / folder / ".metadata")
        for one in (by_hand, _by_ranks(2, shared)["fsdp"].path):
            ours = outlines.of_metadata(one / folder / ".metadata")
            assert ours["fields"] == theirs["fields"]
            assert ours["entries"] == theirs["entries"]
            assert ours["paths"] == theirs["paths"]


@pytest.mark.parametrize("name", ["dcp-hugging-face", "dcp-merged"])
def test_shards_of_dcps_hugging_face_storage_have_names_and_keys_of_the_real_ones(
    name: str, shared: Path, tmp_path: Path
) -> None:
    ours, real = CHECKPOINTS[name](tmp_path), _by_ranks(2, shared)[name]
    assert ours.files == real.files
    assert _strange(ours, real) == []


def test_a_sharded_strategy_of_lightning_writes_the_folder_that_is_made_by_hand(tmp_path: Path) -> None:
    ours = CHECKPOINTS["lightning-sharded"](tmp_path / "ours")
    real = real_lightning.make_lightning_sharded(tmp_path / "real")
    assert ours.files == real.files
    mine, theirs = (outlines.of_metadata(one.path / ".metadata") for one in (ours, real))
    assert mine == theirs
    assert outlines.strange(*(outlines.of_file(one.path / "meta.pt") for one in (ours, real))) == []
    assert {name: one.shape for name, one in real.weights.items()} == {
        "state_dict.layers.weight": torch.Size([4, 3]), "state_dict.layers.bias": torch.Size([4])
    }  # fmt: skip
