"""What a Trainer uploads of its directory: the model, and nothing that we keep beside it for ourselves."""

from __future__ import annotations

import ast
import re
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi

from tests.support.folders import REPOSITORY
from tests.support.trainer_runs import trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
OWN = (".marlin-ckpt/", ".trash/", ".checkpoint-")


@pytest.fixture
def uploads(monkeypatch) -> list[tuple[str, list[str]]]:
    """For each upload of a folder its place in the repository, and the files that would be sent."""
    found = []

    def upload_folder(
        api: HfApi, *, folder_path: Any, path_in_repo: str = "", ignore_patterns: Any = None, **_: Any
    ) -> Future[None]:
        additions = api._prepare_upload_folder_additions(
            folder_path, path_in_repo, ignore_patterns=ignore_patterns
        )
        found.append((path_in_repo, [one.path_in_repo for one in additions]))
        done: Future[None] = Future()
        done.set_result(None)
        return done

    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(HfApi, "_validate_yaml", lambda *_, **__: None)  # which asks the hub
    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: SimpleNamespace(repo_id="me/run"))
    return found


def pushed(directory, strategy: str) -> None:
    """Trains and pushes, with files of ours that `clean` and a killed run may have left there, too."""
    for name in (".trash/1/checkpoint-1", ".checkpoint-1.host.77.marlin-tmp"):
        (directory / name).mkdir(parents=True)
        (directory / name / "model.safetensors").touch()
    one = trainer(
        str(directory), push_to_hub=True, hub_strategy=strategy, hub_always_push=True, save_total_limit=None
    )
    one.train()
    one.create_model_card = lambda **_: None  # of a model of Transformers
    one.push_to_hub()


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "end"])
def test_no_upload_of_a_protected_trainer_has_files_of_ours(tmp_path, uploads, strategy):
    pushed(tmp_path, strategy)
    assert (tmp_path / ".marlin-ckpt" / "events.jsonl").exists()
    of_directory = [files for place, files in uploads if not place]
    assert len(of_directory) == (1 if strategy == "end" else 7)
    assert [one for files in of_directory for one in files if one.startswith(OWN)] == []
    assert all({"model.safetensors", "training_args.bin"} <= {*files} for files in of_directory)


def test_the_patterns_of_the_page_leave_out_what_is_ours_where_one_uploads_the_directory_oneself(
    tmp_path, uploads
):
    page = (REPOSITORY / "docs" / "how-to" / "transformers.md").read_text()
    (named,) = re.findall(r"`ignore_patterns=(\[.*?\])`", page)
    pushed(tmp_path, "end")
    found = HfApi()._prepare_upload_folder_additions(tmp_path, "", ignore_patterns=ast.literal_eval(named))
    names = {one.path_in_repo for one in found}
    assert [one for one in names if one.startswith(OWN)] == []
    assert {"checkpoint-6/.marlin/manifest.json", "model.safetensors"} <= names
