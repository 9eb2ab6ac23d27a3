"""What the library logs, and whose the levels are."""

from __future__ import annotations

import logging

import pytest

from marlin_ckpt import DefaultCheckpointer, DefaultCheckpointerArguments, Trainer, TrainerArguments
from marlin_ckpt.checkpointer import trial
from marlin_ckpt.cli import log
from marlin_ckpt.cli.main import main
from tests.support.tiny_module import Shelf, Tiny

NAMES = ["marlin_ckpt", "marlin_ckpt.checkpointer", "marlin_ckpt.training.trainer", trial.__name__]


@pytest.mark.parametrize("level", [logging.NOTSET, logging.ERROR])
def test_no_level_of_a_users_logger_is_changed(tmp_path, monkeypatch, level):
    loggers = [logging.getLogger(name) for name in NAMES]
    for one in loggers:
        monkeypatch.setattr(one, "level", level)
    DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=str(tmp_path), log_level="DEBUG"))
    Trainer(Tiny(), TrainerArguments(epochs=1, log_level="DEBUG"), checkpointer=Shelf())
    trial.measure(tmp_path, 10_000, lambda _: None)
    assert [one.level for one in loggers] == [level] * len(loggers)


def test_a_command_shows_the_log_and_leaves_levels_and_handlers_as_they_were(tmp_path, capsys):
    logger = logging.getLogger("marlin_ckpt")
    before = [(one, one.level, list(one.handlers)) for one in map(logging.getLogger, NAMES)]
    with log.shown():
        for level in ("debug", "info"):
            getattr(logger.getChild("any"), level)("a word of %s", level)
        log.only_warnings()
        logger.info("too little for --quiet")
        logger.warning("a warning")
    assert capsys.readouterr().err == "a word of debug\na word of info\nwarning: a warning\n"
    assert main(["verify", str(tmp_path / "none")]) == 4
    assert [(one, one.level, list(one.handlers)) for one in map(logging.getLogger, NAMES)] == before


def test_both_levels_limit_what_is_logged_and_a_users_filter_sees_it(tmp_path, caplog):
    users, seen = logging.getLogger("marlin_ckpt.checkpointer"), []
    own = DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=str(tmp_path), log_level="WARNING"))
    caplog.set_level("DEBUG", logger=users.name)

    def look(record):
        seen.append(record.getMessage())
        return record.getMessage() != "dropped"

    users.addFilter(look)
    try:
        own.logger.info("too little for the argument")
        own.logger.error("dropped")
        own.logger.warning("seen")
        caplog.set_level("ERROR", logger=users.name)
        own.logger.warning("too little for the user")
    finally:
        users.removeFilter(look)
    assert seen == ["dropped", "seen"]
    assert caplog.messages == ["seen"]
    assert own.logger.isEnabledFor(logging.ERROR)
    assert not own.logger.isEnabledFor(logging.WARNING)
