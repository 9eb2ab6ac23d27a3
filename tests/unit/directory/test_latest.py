"""The newest checkpoint by the names alone: ours, other tools', and those that tell nothing certain."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from marlin_ckpt import (
    Checkpoint,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    MarlinError,
    get_latest_file,
)
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory.latest import newest_first


def in_order(directory: Path, names: list[str], prefix: str, extension: str = "ckpt") -> list[str]:
    """The names, newest first; their times say the contrary of what they are listed in."""
    for age, name in enumerate(names):
        (directory / name).touch()
        os.utime(directory / name, (1e9 - age, 1e9 - age))
    return [one.item.name for one in newest_first(directory, prefix, extension)]


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("epoch", ["epoch=9-val_loss=0.12.ckpt", "epoch=0-val_loss=0.98.ckpt"]),
        ("epoch", ["epoch=10-step=110.ckpt", "epoch=9-step=100.ckpt", "epoch=2-step=30.ckpt"]),
        ("epoch", ["epoch=2-step=6-v10.ckpt", "epoch=2-step=6-v2.ckpt", "epoch=2-step=6.ckpt"]),
        ("epoch", ["epoch=3-step=7-v1.ckpt", "epoch=2-step=6-v9.ckpt"]),
        ("epoch", ["epoch=11-lr=1e-05.ckpt", "epoch=2-lr=1e-30.ckpt"]),
        ("epoch", ["epoch=5-loss=-3.ckpt", "epoch=4-loss=-70.ckpt"]),
        ("net", ["net-epoch=12-f1=0.2.ckpt", "net-epoch=03-f1=0.9.ckpt"]),
        ("model", ["model_epoch=12_val_loss=0.20.ckpt", "model_epoch=03_val_loss=0.90.ckpt"]),
        ("step", ["step=900-epoch=1.ckpt", "step=100-epoch=7.ckpt"]),
        ("model", ["model--loss=0.1-epoch=3-step=90-last.ckpt", "model--loss=0.9-epoch=2-step=7.ckpt"]),
        ("last", ["last-v2.ckpt", "last-v1.ckpt", "last.ckpt"]),
        ("checkpoint", ["checkpoint-1000.ckpt", "checkpoint-500.ckpt", "checkpoint-90.ckpt"]),
        ("step", ["step-1000.ckpt", "step-500.ckpt"]),
        ("global", ["global_step1000.ckpt", "global_step500.ckpt"]),
        ("checkpoint", ["checkpoint_9_700.ckpt", "checkpoint_10_650.ckpt"]),
        ("checkpoint", ["checkpoint12.ckpt", "checkpoint9.ckpt"]),
        ("best", ["best_model_300_accuracy=0.1.ckpt", "best_model_20_accuracy=0.98.ckpt"]),
        ("rl", ["rl_model_10000_steps.ckpt", "rl_model_9000_steps.ckpt"]),
        ("model", ["model_epoch_12.ckpt", "model_epoch_3.ckpt"]),
        ("model", ["model_v2_epoch12.ckpt", "model_v2_epoch3.ckpt"]),
        ("model", ["model_loss0.12_epoch12.ckpt", "model_loss0.98_epoch3.ckpt"]),
    ],
)
def test_the_names_of_other_tools_are_ordered_by_step_then_epoch_then_version(tmp_path, prefix, names):
    assert in_order(tmp_path, names, prefix) == names
    assert get_latest_file(tmp_path, prefix, "ckpt") == str(tmp_path / names[0])


@pytest.mark.parametrize(
    "names",
    [
        ["model_epoch9_loss0.12.ckpt", "model_epoch0_loss0.98.ckpt"],
        ["model-0.12.ckpt", "model-0.98.ckpt"],
        ["model_lr1e-05.ckpt", "model_lr1e-30.ckpt"],
        ["model_3_of_12.ckpt", "model_4_of_12.ckpt"],
        ["model_e9_b2.ckpt", "model_e1_b7.ckpt"],
        ["model-epoch=9-loss=0.12.ckpt", "model-step=50-loss=0.98.ckpt"],
    ],
)
def test_where_names_give_different_orders_latest_and_load_refuse_and_name_both(tmp_path, names, capsys):
    with pytest.raises(MarlinError, match="names do not tell which is newer") as caught:
        in_order(tmp_path, names, "model")
    assert all(name in str(caught.value) for name in names)
    assert main(["latest", str(tmp_path), "--ext", "ckpt"]) == 1
    told = capsys.readouterr().err
    assert all(name in told for name in names)
    arguments = DefaultCheckpointerArguments(load_dir=tmp_path, file_ext="ckpt")
    with pytest.raises(MarlinError, match="names do not tell which is newer"):
        DefaultCheckpointer(arguments).load()
    assert os.path.basename(get_latest_file(tmp_path, "model", "ckpt")) in names  # as PyMarlin does


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("model_epoch_7.pt", True),
        ("model-7.pt", True),
        ("model7.pt", True),
        ("model_3_of_12.pt", True),
        ("model_7_final.pt", True),
        ("model_final.pt", False),
        ("model_\u0667.pt", False),
        ("model_7.ppt", False),
        ("model_final.pt2", False),
        ("other_7.pt", False),
        ("model_model_7.pt", False),
        ("model_mode_7.pt", False),
    ],
)
def test_a_name_that_fits_no_tools_grammar_counts_by_an_integer_in_its_stem_and_the_log_says_so(
    tmp_path, name, counts, caplog
):
    (tmp_path / name).touch()
    assert get_latest_file(tmp_path, "model") == (str(tmp_path / name) if counts else "")
    assert [name in record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == (
        [True] * counts
    )


def test_a_name_of_ours_comes_before_whatever_other_tools_call_theirs(tmp_path):
    names = ["model_1.ckpt", "model-epoch=9-step=99.ckpt", "model77.ckpt"]
    assert in_order(tmp_path, names, "model") == names[:1]


def test_load_takes_the_checkpoint_of_another_tools_greatest_step(tmp_path):
    for index, name in enumerate(["model-epoch=0-loss=0.98.pt", "model-epoch=9-loss=0.12.pt"]):
        own = DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=tmp_path / "own"))
        os.rename(own.save(Checkpoint({"w": index}), index), tmp_path / name)
    loaded = DefaultCheckpointer(DefaultCheckpointerArguments(load_dir=tmp_path)).load()
    assert loaded.module_interface_state == {"w": 1}


def warnings_of_a_search(directory: Path, caplog) -> list[str]:
    caplog.clear()
    DefaultCheckpointer(DefaultCheckpointerArguments(load_dir=directory)).load()
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("beside", [False, True])
def test_a_run_behind_a_symbolic_link_is_passed_over_with_a_warning_that_names_the_link(
    tmp_path, caplog, beside
):
    own = DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=tmp_path / "disk" / "run7"))
    own.save(Checkpoint({"w": 1}), 3)
    (tmp_path / "runs").mkdir()
    if beside:
        os.link(tmp_path / "disk" / "run7" / "model_3.pt", tmp_path / "runs" / "model_1.pt")
    (tmp_path / "runs" / "run7").symlink_to(tmp_path / "disk" / "run7")
    (told,) = warnings_of_a_search(tmp_path / "runs", caplog)
    assert "symbolic link" in told
    assert str(tmp_path / "runs" / "run7") in told
    os.rename(tmp_path / "disk", tmp_path / "unmounted")
    (told,) = warnings_of_a_search(tmp_path / "runs", caplog)
    assert "leads nowhere" in told
    assert "leads nowhere" in warnings_of_a_search(tmp_path / "runs" / "run7", caplog)[0]


def test_a_link_to_what_is_searched_anyway_is_no_reason_to_warn(tmp_path, caplog):
    own = DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=tmp_path / "run7"))
    own.save(Checkpoint({"w": 1}), 3)
    (tmp_path / "newest").symlink_to("run7")
    (tmp_path / "model_4.pt").symlink_to(tmp_path / "run7" / "model_3.pt")
    assert warnings_of_a_search(tmp_path, caplog) == []
