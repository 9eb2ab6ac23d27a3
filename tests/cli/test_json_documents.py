"""Every key of every JSON document is described by a schema, and every key of a schema is in a document."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import safetensors.torch
import torch

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.cli import schemas as packaged
from marlin_ckpt.cli.commands.registry import names
from marlin_ckpt.cli.main import main
from marlin_ckpt.cli.views import checkpoints
from marlin_ckpt.directory.history.events import Resumed
from marlin_ckpt.formats.manifest import Mesh, Sharded
from marlin_ckpt.storage import space
from marlin_ckpt.training.proof import proof
from marlin_ckpt.training.proof.findings import Difference, Kill, Proof
from tests.support import checkpoint_directories as directories
from tests.support import documents, histories, run_directories, sharded_folders
from tests.support.clones import shared_blocks
from tests.support.folder_checkpoints import about
from tests.support.foreign import trainer
from tests.support.shared_saves import share_all
from tools import schemas

COMMANDS = [one for one in schemas.names() if one != "error"]
# What no document has that is printed here.
ELSEWHERE = {
    "train": {(".run_id", "null"), (".overhead", "null")},  # of a user's own checkpointer
    "env": {  # of other machines; see test_env.py
        (".torch_build", "null"), (".platform.libc", "null"), (".memory_limit_bytes", "integer"),
        (".memory_limit_bytes", "null"), (".file_system", "null"), (".is_network", "null"),
        ("#ability.reason", "string"),
    },
}  # fmt: skip

Run = Callable[..., None]


def words_of(command: str) -> list[str]:
    """How the command is typed whose document has a name."""
    return next((one.split(" ") for one in names() if one.replace(" ", "-") == command), [command])


def _states(value: float) -> Checkpoint:
    adam = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])
    adam.param_groups[0]["params"][0].grad = torch.ones(3)
    adam.step()
    module = {"weight": torch.full((64,), value), "bias": torch.zeros(3), "scale": torch.tensor(value)}
    return Checkpoint(module, {"optimizers": [adam.state_dict()]}, {"step": int(value)}, {"loss": value})


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """The documents that each command prints of what it may meet."""
    found: dict[str, list[dict]] = {}

    def run(command: str, *arguments: str) -> None:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            main([*words_of(command), *arguments, "--json"])
        document = json.loads(out.getvalue())
        assert document["schema"] == f"marlin-ckpt/{command if command in COMMANDS else 'error'}/1"
        found.setdefault(document["schema"].split("/")[1], []).append(document)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space, "_tells", lambda *_: False)
        patch.chdir(tmp_path_factory.mktemp("documents"))
        _prepare()
        _train(run)
        _configure(run)
        _prove(run, patch)
        _look(run, patch)
        _check(run)
        _change(run)
        for command in COMMANDS:
            run(command, "--no-such-option")
        run("no-such-command")
        run("")
    return found


def _prepare() -> None:
    """Whole and damaged files, by us and by others."""
    saver = DefaultCheckpointer(DefaultCheckpointerArguments(save_dir="saved", model_state_save_dir="saved"))
    for index in range(3):
        saver.save(_states(index + 1.0), index)
    saver.save(Checkpoint({"w": torch.ones(2)}, metrics={"loss": float("nan")}), 3)
    saver.save_model({"weight": torch.full((64,), 1.0), "new": torch.ones(2)}, 1)
    Path("others").mkdir()
    torch.save({"w": torch.ones(2)}, "others/model_1.pt")
    torch.save({"w": torch.ones(2)}, "others/weights.pt")
    torch.save({"epoch": 1}, "others/legacy_3.pt", _use_new_zipfile_serialization=False)
    Path("others/model_9.pt").write_bytes(Path("saved/model_2.pt").read_bytes()[:-300])
    Path("others/text_5.pt").write_text("no checkpoint\n")
    packed = zipfile.ZipFile("others/packed_4.pt", "w", zipfile.ZIP_DEFLATED)
    with packed, zipfile.ZipFile("others/model_1.pt") as whole:
        for one in whole.infolist():
            packed.writestr(one.filename, whole.read(one))
    torch.save({"a": argparse.Namespace(b=1)}, "others/unknown_6.pt")
    torch.save({"a": os.system}, "others/unsafe_8.pt")
    odd = {"state": {}, "param_groups": [{"params": "x", "own": 1}]}
    torch.save({"odd": odd, "nan": torch.tensor([float("nan"), float("inf")])}, "others/odd_7.pt")
    safetensors.torch.save_file({"w": torch.ones(2)}, "others/weights.safetensors")
    few = {"fc.weight": torch.ones(2, 2, dtype=torch.int8), "fc.SCB": torch.ones(2)}
    torch.save(few, "others/few_10.pt")
    Path("others/bare_9.pt").write_bytes(pickle.dumps({"epoch": 1}))
    folders = directories.CheckpointDirectory("folders")
    for index in range(2):
        directories.fill_folder(folders, f"model_{index}", index=index)
    Path("folders/model_1/weights").unlink()
    trainer.make_trainer(Path("trained"), step=4)
    (trainer.make_trainer(Path("trained"), step=6).path / "optimizer.pt").unlink()
    sharded = sharded_folders.write(Path("sharded/model_1.dcp"), ranks=2, index=1)
    mesh = Sharded("5f0c", 2, Mesh(("dp",), (2,)))
    sharded_folders.write_manifest(shutil.copytree(sharded, Path("sharded/model_2.dcp")), about(2), mesh)
    Path("damaged.pt").write_bytes(_with_a_flipped_bit(Path("saved/model_1.pt")))


def _with_a_flipped_bit(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((64,), 2.0).numpy().tobytes()) + 5] ^= 4
    return bytes(data)


def _train(run: Run) -> None:
    Path("run.yaml").write_text(
        "module: {name: spiral, points: 60}\n"
        "trainer: {epochs: 2, train_batch_size: 16, val_batch_size: 16, device: cpu, seed: 0}\n"
        "checkpointer: {save_dir: run, model_state_save_dir: null, keep: {last: 1}}\n"
    )
    run("train", "--config", "run.yaml")
    with shared_blocks():
        run("train", "--config", "run.yaml", "--resume", "--set", "trainer.epochs=3")
    Path("blocked/model_0.pt").mkdir(parents=True)
    sets = ("checkpointer.save_dir=blocked", "checkpointer.on_save_error=warn")
    run("train", "--config", "run.yaml", *(part for one in sets for part in ("--set", one)))
    run("train", "--config", "none.yaml")


def _configure(run: Run) -> None:
    Path("own.py").write_text(
        "class Own:\n    def __init__(self, width, rate=0.1, more={}, on=True, name='a', sizes=[1, 2]): ...\n"
    )
    Path("../documents_elsewhere").mkdir()
    Path("../documents_elsewhere/other.py").write_text("class Own: ...\n")
    run("init", "text.yaml")
    run("init", "own.yaml", "--module", "own.py:Own")
    run("init", "other.yaml", "--module", "../documents_elsewhere/other.py:Own")
    run("config-show", "--config", "own.yaml", "--set", "checkpointer.keep=null")


def _prove(run: Run, patch: pytest.MonkeyPatch) -> None:
    """Of proofs that are made up: test_prove_resume.py has real ones, which take a minute."""
    kills = Kill(2, "save"), Kill(3)
    differences = [
        None,
        Difference(3, "loss", "1.0", "2.0", kills[0], "by 1e-3", "look there"),
        Difference(3, "loss", "1.0", "2.0", None),
    ]
    for one in differences:
        made = Proof(9, kills[:1], kills[1:], 1, 2, 3, 4, one, ("own",))
        patch.setattr(proof, "prove", lambda *_, made=made: made)
        run("prove-resume", "--config", "run.yaml")


def _look(run: Run, patch: pytest.MonkeyPatch) -> None:
    with shared_blocks():
        for command, of in (("list", "saved"), ("report", "saved"), ("show", "saved/model_2.pt")):
            run(command, of)
    for directory in ("saved", "others", "folders", "none"):
        run("list", directory)
        run("latest", directory)
    os.utime("others/weights.pt", (1 << 33, 1 << 33))
    time_of = checkpoints._time
    patch.setattr(checkpoints, "_time", lambda ns: time_of(ns << 20))  # few file systems keep the year 10,000
    run("list", "others")
    for file in (
        "saved/model_2.pt",
        "saved/model_model_1.pt",
        "damaged.pt",
        *map(str, Path("others").iterdir()),
    ):
        run("show", file, "--stats", "*")
    for folder in ("trained/checkpoint-4", "trained/checkpoint-6"):
        run("show", folder)
    for name in ("model_1", "model_2"):
        run("show", f"sharded/{name}.dcp")
    run("diff", "saved/model_0.pt", "saved/model_2.pt", "--all")
    run("diff", "saved/model_0.pt", "saved/model_model_1.pt", "--all")
    run("diff", "others/model_1.pt", "others/odd_7.pt")
    torch.save({"w": torch.ones(2, 1), "z": torch.zeros(2)}, "one.pt")
    torch.save({"w": torch.ones(2), "z": torch.ones(2), "epoch": 1}, "other.pt")
    run("diff", "one.pt", "other.pt")
    run("diff", "other.pt", "one.pt")
    for directory in (".", "/proc", "none"):
        run("env", directory)
    killed, other = histories.killed_and_resumed(), histories.of_another_run()
    run("log", str(histories.write(Path("logged"), *killed[3:], *other)))  # the first start is lost
    run("log", str(histories.write(Path("logged_whole"), *killed, Resumed(run_id="other"))))
    run("log", "saved")
    troubled = str(run_directories.troubled(Path("troubled")))
    run("report", troubled, "--stats", "--compare", "one.pt")
    run("report", troubled, "--keep-last", "2")
    run("report", "others/model_9.pt")
    run_directories.save(Path("measured"), 0, 1, has_statistics=True)
    run("report", "measured")
    Path("empty").mkdir()
    run("report", "empty")


def _check(run: Run) -> None:
    run("verify", "saved", "others", "folders", "damaged.pt", "others/text_5.pt")
    run("verify", "none")
    with shared_blocks():
        share_all("shared")
        run("verify", "shared")
    run("salvage", "damaged.pt", "-o", "rescued.pt")
    run("show", "rescued.pt")
    run("salvage", "others/model_9.pt", "-o", "rescued_too.pt")


def _change(run: Run) -> None:
    torch.save({"a": torch.full((2,), 1e38), "b": 1, "c.d": torch.ones(2)}, "large.pt")
    run("export", "large.pt", "-o", "small.safetensors", "--dtype", "fp16")
    run("export", "saved/model_2.pt", "-o", "weights.pt", "--strip-prefix", "w")
    run("average", "saved/model_0.pt", "saved/model_2.pt", "-o", "average.pt")
    run("average", "one.pt", "one.pt", "-o", "bare.pt")
    run("clean", "none")
    run("clean", "others", "--keep-last", "1", "--dry-run")
    run("clean", "saved", "--keep-last", "1", "--to-trash")
    run("clean", "saved", "--undo", "--dry-run")
    Path("saved/model_0.pt").touch()  # in the place of what comes back
    run("clean", "saved", "--undo")
    run("clean", "saved")
    run("advise", "saved", "--size", "1MB")
    run("advise", "saved", "--size", "1MB", "--step-seconds", "1", "--mtbf-hours", "9")


@pytest.mark.parametrize("command", [*COMMANDS, "error"])
def test_a_document_has_no_key_that_its_schema_does_not_describe(printed, command):
    assert [fault for one in printed[command] for fault in documents.faults(one)] == []


@pytest.mark.parametrize("command", [*COMMANDS, "error"])
def test_each_key_of_a_schema_is_in_some_document_with_each_of_its_types(printed, command):
    found = set().union(*itertools.starmap(documents.seen, ((command, one) for one in printed[command])))
    shared = {one for name in printed for each in printed[name] for one in documents.seen(name, each)}
    elsewhere = ELSEWHERE.get(command, set())
    assert elsewhere <= documents.described(command)
    missing = documents.described(command) - found - elsewhere
    assert {one for one in missing if not (one[0].startswith("#") and one in shared)} == set()


def test_a_key_that_is_not_described_is_a_fault_and_one_that_is_missing_too():
    assert documents.faults({"schema": "marlin-ckpt/latest/1", "path": "a"}) == []
    (fault,) = documents.faults({"schema": "marlin-ckpt/latest/1", "path": "a", "new": 1})
    assert "'new' was unexpected" in fault
    assert documents.faults({"schema": "marlin-ckpt/latest/1"}) != []


@pytest.mark.parametrize("name", schemas.names())
def test_a_schema_is_one_of_draft_2020_12_and_describes_each_key(name):
    schema = schemas.read(name)
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert all(one.meaning.endswith(".") for one in schemas.keys(schema))


def test_there_is_a_schema_for_each_command_and_no_other():
    without = {"config schema"}  # what it prints is a schema itself
    commands = {one.replace(" ", "-") for one in {*names()} - without}
    assert {*packaged.names()} == {*schemas.names()} == commands | {"error"}


def test_what_schemas_share_is_the_same_in_each():
    """A schema is a file that needs no other, so that `error`, say, is in all of them."""
    parts: dict[str, list[object]] = {}
    for name in schemas.names():
        for key, part in schemas.read(name)["$defs"].items():
            parts.setdefault(key, []).append(part)
    assert {key for key, found in parts.items() if any(one != found[0] for one in found)} == set()
