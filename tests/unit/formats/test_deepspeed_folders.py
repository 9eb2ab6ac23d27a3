"""A folder of DeepSpeed is one checkpoint of all ranks; its parts of tensors are never written as a whole."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from marlin_ckpt.directory import catalog
from marlin_ckpt.errors import UnsavableStateError
from marlin_ckpt.formats import inspection
from marlin_ckpt.formats.layouts.beside import said_beside
from marlin_ckpt.formats.verdicts import Inspection, Status
from marlin_ckpt.operations import export, one
from marlin_ckpt.operations.export import Wanted
from marlin_ckpt.storage.local.store import open_store
from tests.support.foreign.deepspeed import make_deepspeed, make_zero3, make_zero_in_fp16

make_without_zero = functools.partial(make_deepspeed, stage=0)
OPTIMIZER = "bf16_zero_pp_rank_{data}_mp_rank_{model:02d}_optim_states.pt"
MODEL = "mp_rank_{model:02d}_model_states.pt"
SHARDED_MODEL = "zero_pp_rank_{data}_mp_rank_{model:02d}_model_states.pt"


def inspected(path: Path) -> Inspection:
    entry = catalog.entry(path)
    assert entry is not None
    assert entry.layout == "deepspeed"
    return inspection.inspect(entry)


def save(path: Path, *names: str, content: object = ()) -> Path:
    path.mkdir(exist_ok=True)
    for name in names:
        torch.save(content, path / name)
    return path


def needed(top: Path, path: Path) -> set[str]:
    with open_store(top) as store:
        return {name for names in said_beside(store, str(path.relative_to(top))).values() for name in names}


@pytest.mark.parametrize("make", [make_deepspeed, make_zero3, make_zero_in_fp16, make_without_zero])
def test_a_whole_folder_is_complete_and_unverifiable(tmp_path, make):
    made = make(tmp_path)
    assert inspected(made.path).status is Status.COMPLETE
    assert one.verify(made.path).status is Status.UNVERIFIABLE


@pytest.mark.parametrize("make", [make_deepspeed, make_zero3, make_zero_in_fp16])
def test_each_file_that_is_missing_is_named(tmp_path, make):
    made = make(tmp_path)
    for name in made.files:
        (made.path / name).rename(tmp_path / "away")
        assert inspected(made.path).status is Status.INCOMPLETE
        assert one.verify(made.path).reason == f"{name} is missing"
        (tmp_path / "away").rename(made.path / name)


def test_all_optimizers_that_are_missing_are_missed_by_what_the_model_says(tmp_path):
    made = make_deepspeed(tmp_path)
    for file in made.path.glob("*_optim_states.pt"):
        file.unlink()
    found = inspected(made.path)
    assert found.reason == (
        "*zero_pp_rank_0_mp_rank_00_optim_states.pt, *zero_pp_rank_1_mp_rank_00_optim_states.pt are missing"
    )


@pytest.mark.parametrize(
    "gone",
    [
        MODEL.format(model=0), MODEL.format(model=1), OPTIMIZER.format(data=0, model=0),
        OPTIMIZER.format(data=1, model=1), OPTIMIZER.format(data=2, model=0),
    ],
)  # fmt: skip
def test_the_ranks_that_the_names_imply_are_those_of_every_rank_of_the_model(tmp_path, gone):
    names = {MODEL.format(model=model) for model in range(2)}
    names |= {OPTIMIZER.format(data=data, model=model) for data in range(3) for model in range(2)}
    path = save(tmp_path / "global_step5", *names)
    assert inspected(path).status is Status.COMPLETE
    (path / gone).unlink()
    assert inspected(path).reason == f"{gone} is missing"


def test_the_last_rank_is_missed_by_what_the_first_file_of_an_optimizer_says(tmp_path):
    content = {"optimizer_state_dict": {"zero_stage": 2, "partition_count": [2, 3]}}
    names = [OPTIMIZER.format(data=data, model=0) for data in range(3)]
    path = save(save(tmp_path / "global_step5", *names, content=content), MODEL.format(model=0), content={})
    assert inspected(path).status is Status.COMPLETE
    (path / names[2]).unlink()
    assert inspected(path).reason == f"{names[2]} is missing"


def test_the_stages_of_a_pipeline_save_no_models_of_their_own(tmp_path):
    layers = [f"layer_{layer:02d}-model_{model:02d}-model_states.pt" for layer in (1, 3) for model in (0, 1)]
    names = [*layers, *(MODEL.format(model=one) for one in range(2))]
    names += [OPTIMIZER.format(data=0, model=model) for model in range(4)]
    path = save(tmp_path / "global_step5", *names, content={"mp_world_size": 4})
    assert inspected(path).status is Status.COMPLETE
    (path / layers[2]).unlink()
    assert inspected(path).reason == f"{layers[2]} is missing"


def test_a_file_that_was_cut_off_makes_the_folder_corrupt(tmp_path):
    made = make_zero3(tmp_path)
    for name in made.files:
        data = (made.path / name).read_bytes()
        (made.path / name).write_bytes(data[:-100])
        for found in (inspected(made.path), one.verify(made.path)):
            assert found.status is Status.CORRUPT
            assert found.reason.startswith(f"{name}: ")
        (made.path / name).write_bytes(data)


def test_a_model_of_another_step_than_that_of_the_name_is_wrong(tmp_path):
    one_step, other = (make_deepspeed(tmp_path, step=step) for step in (2, 10))
    (one_step.path / "mp_rank_00_model_states.pt").replace(other.path / "mp_rank_00_model_states.pt")
    for found in (inspected(other.path), one.verify(other.path)):
        assert found.status is Status.CORRUPT
        assert found.reason == "its model is of step 2, and its name says 10"


def test_a_tag_that_the_user_chose_says_no_step(tmp_path):
    made = make_deepspeed(tmp_path, step=2, tag="step10")
    assert inspected(made.path).status is Status.COMPLETE


def test_a_stated_number_of_ranks_is_believed_only_as_far_as_it_takes_no_time(tmp_path):
    content = {"optimizer_state_dict": {"zero_stage": 2, "partition_count": [10**18, "x"]}}
    path = save(tmp_path / "global_step5", OPTIMIZER.format(data=0, model=0), content=content)
    save(path, MODEL.format(model=0), content={"mp_world_size": 10**18, "ds_config": [], "dp_world_size": -1})
    found = inspected(path)
    assert found.status is Status.INCOMPLETE
    assert found.reason.endswith("more are missing")


@pytest.mark.parametrize("make", [make_deepspeed, make_zero3])
def test_parts_of_tensors_are_shown_and_not_exported(tmp_path, make):
    made = make(tmp_path)
    with one.opened(str(made.path)) as file:
        assert {name.rpartition(".")[0] for name in made.files} == {
            node.key for node in file.contents.root.children
        }
        with pytest.raises(UnsavableStateError, match="is a part of a larger tensor") as caught:
            export.select(file.contents, Wanted())
    assert "zero_to_fp32.py" in caught.value.hint
    assert ("--state mp_rank_00_model_states.module" in caught.value.hint) == (make is make_deepspeed)


def test_a_model_that_one_rank_saved_whole_is_exported_by_the_name_of_its_state(tmp_path):
    made = make_deepspeed(tmp_path)
    with one.opened(str(made.path)) as file:
        found = export.select(file.contents, Wanted(state="mp_rank_00_model_states.module"))
        assert {name: value.shape for name, value in found.tensors.items()} == {
            name: tuple(value.shape) for name, value in made.weights.items()
        }


def test_a_model_in_parts_of_tensors_is_not_exported_by_the_name_of_its_state(tmp_path):
    made = make_zero3(tmp_path)
    with (
        one.opened(str(made.path)) as file,
        pytest.raises(UnsavableStateError, match="is a part of a larger tensor"),
    ):
        export.select(file.contents, Wanted(state="zero_pp_rank_0_mp_rank_00_model_states.module"))


@pytest.mark.parametrize("above", ["", "runs/a"])
def test_the_folder_that_latest_names_is_needed(tmp_path, above):
    made, _ = [make_deepspeed(tmp_path / above, step=step) for step in (2, 4)]
    assert needed(tmp_path, made.path) == {"global_step4"}


@pytest.mark.parametrize(("text", "names"), [("10\n", {"10", "iter_0000010"}), ("release", {"release"})])
def test_the_iteration_that_megatron_goes_on_from_is_needed(tmp_path, text, names):
    made = make_deepspeed(tmp_path, tag="iter_0000004")
    (tmp_path / "latest").unlink()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(text)
    assert needed(tmp_path, made.path) == names


@pytest.mark.parametrize("text", ["", "x" * 300])
def test_a_file_of_that_name_which_names_nothing_is_passed_over(tmp_path, text):
    made = make_deepspeed(tmp_path)
    (tmp_path / "latest").write_text(text)
    assert needed(tmp_path, made.path) == set()


def test_a_link_in_place_of_latest_is_not_followed(tmp_path):
    made = make_deepspeed(tmp_path / "run")
    (tmp_path / "run/latest").rename(tmp_path / "elsewhere")
    (tmp_path / "run/latest").symlink_to(tmp_path / "elsewhere")
    assert needed(tmp_path, made.path) == set()
