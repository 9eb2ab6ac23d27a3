"""`marlin-ckpt train` as the ranks of one run: who prints what, how an error and a signal end them all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from marlin_ckpt.cli.ranks import rank_log
from marlin_ckpt.errors import StorageError
from marlin_ckpt.saving.writing.file import FileImage
from tests.support import warm
from tests.support.rank_modules import PATIENCE_S, config, run_ranks


@pytest.fixture
def logs(tmp_path):
    """The logs that ranks keep, by rank."""

    def read() -> dict[int, str]:
        own = tmp_path / "checkpoints" / ".marlin-ckpt"
        return {int(one.stem.partition("_")[2]): one.read_text() for one in own.glob("rank_*.log")}

    return read


def saved(directory: Path) -> list[str]:
    return sorted(one.name for one in (directory / "checkpoints").glob("*.pt"))


def test_rank_0_alone_prints_and_each_keeps_its_own_log(tmp_path, logs):
    main, other = run_ranks(tmp_path, 2, "train", "--config", config(tmp_path, does="print"), "--json")

    document = json.loads(main.out)
    assert (main.code, document["global_steps"]) == (0, 9)
    assert main.err.count("print of 0") == 9
    assert main.err.count("epoch ") == 3
    assert (other.code, other.out, other.err) == (0, "", "")
    assert logs()[1] == "print of 1\n" * 9

    changed = "--resume", "--set", "trainer.train_batch_size=10", "--set", "trainer.epochs=4"
    main, other = run_ranks(tmp_path, 2, "train", "--config", tmp_path / "run.yaml", *changed)

    assert (main.code, other.code, other.err) == (0, 0, "")
    assert (
        main.err.count("warning: This resume will not be exact because train_batch_size was 12 and is 10")
        == 1
    )


def test_an_error_of_one_rank_is_printed_once_and_with_its_rank(tmp_path, logs):
    ended = run_ranks(tmp_path, 3, "train", "--config", config(tmp_path, does="raise", at=[2, 4]))

    assert [one.code for one in ended] == [1, 1, 1]
    printed = [line for one in ended for line in one.err.splitlines() if "error:" in line]
    assert [line.startswith("[rank 2] error: ValueError: of one rank: ") for line in printed] == [True]
    kept = logs()
    assert all("Traceback" in one for one in kept.values())
    assert kept[2].rstrip().endswith("ValueError: of one rank")


def test_a_rank_that_is_killed_ends_the_others_with_one_error(tmp_path):
    ended = run_ranks(tmp_path, 3, "train", "--config", config(tmp_path, does="kill", at=[1, 5]))

    assert [one.code for one in ended] == [1, -9, 1]
    errors = [line for one in ended for line in one.err.splitlines() if "error:" in line]
    assert [line.removeprefix("[rank 2] ") for line in errors] == ["error: rank 1 has ended"]
    assert saved(tmp_path)[-1] == "model_4.pt"


def test_a_run_that_fails_while_its_last_save_fails_reports_both_and_ends_with_1(
    tmp_path, run_main, monkeypatch
):
    real = FileImage.write

    def write(image, *arguments):
        if image._path.endswith("model_4.pt"):
            raise StorageError("no room", "/full")
        return real(image, *arguments)

    monkeypatch.setattr(FileImage, "write", write)
    path = config(tmp_path, backend="sp", does="raise", at=[0, 5])
    code, _, err = run_main("train", "--config", path, "--set", "checkpointer.async_save=true")

    assert code == 1
    assert err.index("error: ValueError: of one rank") < err.index(
        "The save under way failed, too: no room: /full"
    )


def test_the_death_of_rank_0_which_may_have_the_ranks_store_ends_the_others_at_once(tmp_path):
    main, other = run_ranks(tmp_path, 2, "train", "--config", config(tmp_path, does="kill", at=[0, 5]))

    assert (main.code, other.code) == (-9, 1)
    assert "\n[rank 1] error: rank 0 has ended" in other.err  # below what torch says of its store


def test_a_refusal_is_that_of_rank_0(tmp_path):
    run = "train", "--config", config(tmp_path)
    assert {one.code for one in run_ranks(tmp_path, 2, *run)} == {0}

    main, other = run_ranks(tmp_path, 2, *run)

    assert (main.code, other.code) == (2, 2)
    problem, hint = main.err.splitlines()
    assert problem.startswith("error: checkpointer.save_dir: ")
    assert hint.startswith("hint: --resume continues it")
    assert (other.out, other.err) == ("", "")


def test_what_torchrun_prints_of_a_rank_that_failed_is_its_error(tmp_path, run_main, monkeypatch):
    where = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(where))

    assert run_main("train", "--config", config(tmp_path))[0] == 2

    told = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(where))
    one = "trainer.backend: ddp trains in several processes, and this is one by itself"
    assert ChildFailedError("run", {0: told}).format_msg().count(f"  traceback : {one}\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["error.json", "run.yaml"]


def test_a_signal_ends_a_rank_that_waits_for_one_that_was_not_started(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening, open(tmp_path / "err", "wb") as errors:
        listening.settimeout(PATIENCE_S)
        place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        started = warm.Popen(
            [sys.executable, "-m", "marlin_ckpt", "train", "--config", str(config(tmp_path))],
            env={**os.environ, **place, "MASTER_PORT": str(listening.getsockname()[1])}, cwd=tmp_path,
            stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
        )  # fmt: skip
        try:
            with listening.accept()[0]:  # torch is in a call of its own, and gets no answer
                started.send_signal(signal.SIGTERM)
                assert started.wait(20) in (-signal.SIGTERM, 128 + signal.SIGTERM)
        finally:
            started.kill()
            started.wait()


def test_a_rank_that_cannot_be_is_refused(tmp_path, run_main, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")

    code, _, err = run_main("train", "--config", config(tmp_path))

    assert code == 2
    assert "error: RANK: is 2, and WORLD_SIZE 2: the first rank is 0\n" in err


def test_an_option_that_there_is_not_is_told_once(tmp_path):
    ended = run_ranks(tmp_path, 2, "train", "--resum", "--config", config(tmp_path))

    assert [one.code for one in ended] == [2, 2]
    assert "".join(one.err for one in ended).count("error: No such option: --resum") == 1


@pytest.mark.parametrize("resumed", [False, True])
def test_a_signal_to_one_rank_stops_all_at_one_step_with_its_code(tmp_path, cases, resumed):
    options = ["--resume"] if resumed else []
    for number in range(cases(2, 25)):
        directory = tmp_path / str(number)
        directory.mkdir()
        run = "train", "--config", config(directory, does="signal", at=[number % 3, 5])
        ended = run_ranks(directory, 3, *run, *options)
        assert [(one.code, one.out) for one in ended] == [(143, "")] * 3, ended
        assert ended[0].err.count("terminated; last checkpoint: ") == 1
        assert [one.err for one in ended[1:]] == ["", ""]
        assert saved(directory)[-1] == "model_5.pt"


def test_a_backend_for_one_process_is_refused_where_several_were_started(tmp_path):
    main, other = run_ranks(tmp_path, 2, "train", "--config", config(tmp_path, backend="sp"))

    assert (main.code, other.code) == (2, 2)
    assert main.err.startswith("error: trainer.backend: sp trains in one process, and 2 were started\n")
    assert other.err == ""


def test_a_backend_for_many_processes_names_the_command_that_starts_them(tmp_path, run_main):
    path = config(tmp_path)
    code, out, err = run_main("train", "--config", path, "--resume")

    assert (code, out) == (2, "")
    started = f"torchrun --nproc-per-node 4 -m marlin_ckpt train --config {path} --resume"
    assert err.splitlines()[-1] == f"hint: start them by: {started}"


def test_a_restart_goes_on_with_what_its_launch_has_saved_and_with_nothing_else(
    tmp_path, run_main, monkeypatch
):
    path = config(tmp_path, backend="sp")

    def start(restarts: int, launch: str = "one", *options: str, steps: int = 3) -> tuple[int, dict]:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", launch)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        epochs = f"trainer.epochs={steps // 3}"
        code, out, _ = run_main("train", "--config", path, "--json", "--set", epochs, *options)
        return code, json.loads(out)

    code, first = start(0)
    assert (code, first["global_steps"]) == (0, 3)
    code, second = start(1, steps=6)
    assert (code, second["steps_trained"], second["run_id"]) == (0, 3, first["run_id"])
    assert os.path.basename(second["resumed_from"]) == "model_3.pt"
    # Another launch, whose first start is refused: its later ones are too.
    assert [start(number, "other", steps=6)[0] for number in (0, 1)] == [2, 2]
    code, anew = start(0, "other", "--overwrite")
    assert (code, anew["resumed_from"]) == (0, None)
    code, again = start(1, "other", "--overwrite", steps=6)
    assert (code, again["steps_trained"], again["run_id"]) == (0, 3, anew["run_id"])


def test_a_restart_of_a_start_that_has_saved_nothing_begins_as_that_did(tmp_path, run_main, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    path = config(tmp_path, backend="sp", does="raise", at=[0, 1])
    assert run_main("train", "--config", path)[0] == 1
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    code, out, _ = run_main("train", "--config", path, "--json")
    assert (code, json.loads(out)["resumed_from"]) == (0, None)


def test_a_log_of_a_rank_keeps_its_end_and_goes_with_a_run_on_fewer_ranks(tmp_path):
    own = tmp_path / ".marlin-ckpt"
    log = rank_log.RankLog(3)
    log.write("before there is a folder\n")
    log.keep_in(os.fspath(tmp_path), is_new=True)
    own.mkdir()
    log.write("first\n")
    path = own / rank_log.name_of(3)
    assert path.read_text() == "before there is a folder\nfirst\n"
    for number in range(40):
        log.write(f"{number}".rjust(1 << 16))
    log.close()
    assert path.stat().st_size <= rank_log.MOST_BYTES
    assert path.read_text().startswith("[what came before")
    assert path.read_text().endswith("39")
    again = rank_log.RankLog(3)
    again.keep_in(os.fspath(tmp_path), is_new=True)
    assert path.read_text() == ""
    again.close()
    rank_log.sweep(os.fspath(tmp_path), 4)
    assert path.exists()
    rank_log.sweep(os.fspath(tmp_path), 3)
    assert not path.exists()


def test_a_log_of_a_rank_is_not_written_through_a_link(tmp_path):
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / ".marlin-ckpt").mkdir()
    (tmp_path / ".marlin-ckpt" / "rank_1.log").symlink_to(target)
    log = rank_log.RankLog(1)
    log.keep_in(os.fspath(tmp_path), is_new=True)
    log.write("text")
    log.close()
    assert target.read_text() == "mine"


def test_the_shipped_file_for_many_ranks_trains_on_two(tmp_path, repository):
    (tmp_path / "configs").mkdir()
    shutil.copy(repository / "configs" / "sonnets.txt", tmp_path / "configs")
    few = "--set", "trainer.epochs=1", "--set", "trainer.max_train_steps_per_epoch=2"
    main, other = run_ranks(tmp_path, 2, "train", "--config", repository / "configs" / "ddp.yaml", *few)

    assert (main.code, other.code, other.out) == (0, 0, "")
    names = sorted(one.name for one in (tmp_path / "checkpoints" / "ddp").glob("*.pt"))
    assert names == ["model_0.pt", "model_model_0.pt"]
