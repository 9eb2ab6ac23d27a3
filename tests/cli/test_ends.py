"""How commands end that are stopped, that fail, or that a user's module ends: code, message, document."""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from marlin_ckpt.cli.main import _what_counts, main
from marlin_ckpt.directory import notes
from marlin_ckpt.errors import RankError
from tests.support import warm
from tests.support.own_modules import run_of_its_own

_MODULE = """
import os, signal, sys, torch
from torch.utils.data import DataLoader, TensorDataset
from marlin_ckpt import ModuleInterface


class Own(ModuleInterface):
    def __init__(self, does="pass", where="step"):
        super().__init__()
        self.does = {where: does}
        self.net = torch.nn.Linear(4, 1)
        self.data = TensorDataset(torch.ones(16, 4))
        self.run("init")

    def run(self, where):
        exec(self.does.get(where, "pass"))

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        return [torch.optim.SGD(self.net.parameters(), lr=0.1)], []

    def get_train_dataloader(self, sampler, batch_size):
        self.run("data")
        return DataLoader(self.data, batch_size=batch_size, sampler=sampler(self.data))

    def get_val_dataloaders(self, sampler, batch_size):
        return None

    def train_step(self, global_step, batch, device):
        self.run("step")
        return self.net(batch[0]).square().mean()

    def val_step(self, global_step, batch, device):
        pass

    def on_end_train_epoch(self, global_step, *outputs):
        self.run("callback")
"""
COMMANDS = {
    "train": ["--config", "none.yaml"],
    "prove-resume": ["--config", "none.yaml"],
    "list": ["none"],
    "latest": ["none"],
    "log": ["none"],
    "report": ["none"],
    "show": ["none"],
    "verify": ["none"],
    "salvage": ["none", "-o", "new.pt"],
    "diff": ["none", "none"],
    "export": ["none", "-o", "new.pt"],
    "average": ["none", "-o", "new.pt"],
    "clean": ["none", "--keep-last", "1"],
    "advise": ["none/none"],
    "env": ["none"],
    "init": ["none/none.yaml"],
    "config show": ["--config", "none.yaml"],
}


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("MARLIN_CKPT_TRACEBACK", raising=False)
    trainer = "{epochs: 2, train_batch_size: 8, device: cpu, seed: 1}"
    run_of_its_own(tmp_path, monkeypatch, _MODULE, trainer)


@pytest.fixture
def train(run_main):
    """Trains with a module that does something at a place."""

    def run(does="pass", where="step", *more):
        told = ["--set", f"module.args.does={json.dumps(does)}", "--set", f"module.args.where={where}"]
        return run_main("train", "--config", "run.yaml", "--quiet", *told, *more)

    return run


@pytest.mark.parametrize(
    ("where", "does", "code", "says"),
    [
        *((where, "sys.exit('no data')", 1, "no data\n") for where in ("init", "data", "step", "callback")),
        ("step", r"sys.exit('two\nlines \x1b[31m')", 1, "two\nlines \\x1b[31m\n"),
        ("step", "sys.exit(('a', 1))", 1, "('a', 1)\n"),
        ("step", "sys.exit(3)", 3, ""),
        ("callback", "sys.exit(None)", 0, ""),
        ("step", "raise KeyboardInterrupt", 130, "interrupted; last checkpoint: none\n"),
    ],
)
def test_a_module_that_ends_the_process_ends_the_command_as_python_does(train, where, does, code, says):
    assert train(does, where) == (code, "", says)


def failures():
    return list(notes.failed_starts("out").values())


@pytest.mark.parametrize(
    ("where", "does"),
    [
        ("step", "raise OSError(28, 'No space left on device')"),
        *((where, "open('missing.txt')") for where in ("init", "data", "step")),
        *((where, "os.kill(os.getpid(), signal.SIGINT)") for where in ("init", "data", "step")),
        ("step", "os.kill(os.getpid(), signal.SIGTERM)"),
        ("step", "raise KeyboardInterrupt"),
        ("callback", "sys.exit(0)"),
        ("step", "sys.exit(143)"),
    ],
)
def test_what_is_not_the_checkpoints_fault_is_not_held_against_it(train, where, does):
    assert train()[0] == 0
    train(does, where, "--resume", "--set", "trainer.epochs=4")
    assert failures() == []


@pytest.mark.parametrize(
    "more",
    [
        ("--set", "module.args.widht=8"),
        ("--set", "trainer.epochs=-1"),
        ("--set", "trainer.device=cuda:99"),
        ("--set", "trainer.train_batch_size=4", "--exact"),
    ],
)
def test_a_wrong_argument_is_not_held_against_the_checkpoint(train, more):
    assert train()[0] == 0
    assert train("pass", "step", "--resume", "--set", "trainer.epochs=4", *more)[0] != 0
    assert failures() == []


@pytest.mark.parametrize("does", ["raise ValueError('bad')", "sys.exit('bad')"])
@pytest.mark.parametrize(("where", "counted"), [("init", []), ("data", []), ("step", [1]), ("callback", [1])])
def test_a_bad_end_counts_from_when_the_checkpoint_is_read(train, does, where, counted):
    assert train()[0] == 0
    assert train(does, where, "--resume", "--set", "trainer.epochs=4")[0] != 0
    assert failures() == counted


def test_a_second_signal_ends_a_run_at_once_and_is_not_held_against_the_checkpoint(repository, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.fspath(repository)}

    def train(*more: str) -> int:
        command = [sys.executable, "-m", "marlin_ckpt", "train", "--config", "run.yaml", "--quiet", *more]
        ended = warm.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120)
        return ended.returncode

    assert train() == 0
    twice = "os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGTERM)"
    more = ["--resume", "--set", "trainer.epochs=4", "--set", f"module.args.does={json.dumps(twice)}"]
    assert train(*more) == -signal.SIGTERM
    assert failures() == []


def test_a_process_that_a_module_has_forked_ends_without_a_word_of_the_command(train, tmp_path):
    assert train()[0] == 0
    child = "if os.fork() == 0:\n try: sys.exit(0)\n finally: open('child', 'w')\nos.wait(); 1 / 0"
    before = os.getpid()
    try:
        code, out, _ = train(child, "step", "--resume", "--json", "--set", "trainer.epochs=4")
    finally:
        if os.getpid() != before:
            os._exit(0)
    assert code == 1
    one_document(out, "train", 1)
    assert (tmp_path / "child").exists()
    assert failures() == [1]


def one_document(out: str, command: str, code: int) -> dict:
    found = json.loads(out)
    assert found["schema"] == f"marlin-ckpt/{command}/1"
    assert found["error"]["exit_code"] == code
    return found


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("extra", [[], ["--no-such-option"]])
def test_each_command_that_fails_prints_one_document_with_the_message_and_the_exit_code(
    run_main, command, extra
):
    code, out, err = run_main(*command.split(" "), *COMMANDS[command], "--json", *extra)
    assert code > 0
    error = one_document(out, command.replace(" ", "-"), code)["error"]
    assert error["message"]
    assert error["message"].splitlines()[0] in err


def test_without_the_option_a_failure_prints_no_document(run_main):
    assert run_main("list", "none")[1] == ""
    assert run_main("verify", "--", "--json")[1] == ""


@pytest.mark.parametrize(
    ("does", "code", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, "stopped by SIGTERM"),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, "stopped by SIGINT"),
        ("raise KeyboardInterrupt", 130, "stopped by SIGINT"),
        ("raise ValueError('bad luck')", 1, "bad luck"),
        ("sys.exit('bad luck')", 1, "bad luck"),
    ],
)
def test_a_training_that_ends_early_prints_the_files_that_it_has_written(train, does, code, message):
    does = f"self.steps = getattr(self, 'steps', 0) + 1\nif self.steps == 4: {does}"
    ended, out, _ = train(does, "step", "--json")
    assert ended == code
    found = one_document(out, "train", code)
    assert found["error"]["message"] == message
    assert found["files"][0]["path"] == "out/model_0.pt"
    assert found["global_steps"] == (4 if code > 1 and "kill" in does else 3)


def test_a_training_that_ends_well_has_no_error_in_its_document(train):
    code, out, _ = train("pass", "step", "--json")
    assert code == 0
    assert "error" not in json.loads(out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["verify", "latest", "list"])
def test_any_command_that_a_signal_stops_prints_a_document(run_main, monkeypatch, command, number):
    from marlin_ckpt.directory import catalog
    from marlin_ckpt.directory.others import kinds

    def stopped(*args, **options):
        os.kill(os.getpid(), number)

    monkeypatch.setattr(catalog, "find", stopped)
    monkeypatch.setattr(kinds, "newest_of_any", stopped)  # what `latest` asks, there being nothing
    Path("out").mkdir()
    before = signal.getsignal(signal.SIGTERM)
    code, out, _ = run_main(command, "out", "--json")
    assert code == 128 + number
    assert one_document(out, command, code)["error"]["message"] == f"stopped by {number.name}"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_document_that_was_printed_is_not_followed_by_another(capsys, monkeypatch):
    from marlin_ckpt.cli import output

    def failing():
        raise ValueError("after the document")

    monkeypatch.setattr(output, "flush", failing)
    Path("out").mkdir()
    with contextlib.suppress(ValueError):
        main(["verify", "out", "--json"])
    assert len(json.JSONDecoder().raw_decode(capsys.readouterr().out)) == 2


def test_a_sigterm_on_the_heels_of_another_ranks_end_does_not_hide_it():
    lost, plain = RankError("rank 1 has ended"), SystemExit(143)
    with pytest.raises(SystemExit) as caught:
        try:
            raise lost
        finally:
            raise SystemExit(143)

    assert _what_counts(caught.value) is lost
    assert _what_counts(plain) is plain
