"""What a checkpointer tells of its saves."""

from __future__ import annotations

import os

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
from marlin_ckpt.directory import notes
from marlin_ckpt.directory.removing import Removal
from marlin_ckpt.directory.retention.in_run import Keeper
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.saving.saver import Saver


class Accounting(AbstractCheckpointer):
    """A checkpointer that knows what its saves have cost, and what has gone for them."""

    args: DefaultCheckpointerArguments
    _saver: Saver
    _keeper: Keeper
    _save_s: float | None = None
    _is_running = False

    def overhead(self) -> float:
        """The share of the time since this checkpointer was made that its saves have cost.

        It is the time that training waited, and what the steps took longer while a save was under way.
        """
        return self._saver.pace.share()

    def take_reports(self) -> list[SaveReport]:
        """What became durable since this was last asked."""
        reports = self._saver.reports
        taken = [reports.popleft() for _ in range(len(reports))]
        for one in taken:
            if not one.is_model:
                self._save_s = one.stall_s + one.copy_s + one.write_s + one.sync_s
        if taken and self._is_running and self._save_s is not None:
            notes.note_save(os.fspath(self.args.save_dir), self._save_s)
        return taken

    def removed(self) -> list[Removal]:
        """What `keep` has let go since this checkpointer was made, each with the reason; the last 1,000."""
        return list(self._keeper.removed)

    def usual_save_s(self) -> float | None:
        """How long the last checkpoint into `save_dir` took until it was durable; None before the first."""
        return notes.save_seconds(os.fspath(self.args.save_dir)) if self._save_s is None else self._save_s
