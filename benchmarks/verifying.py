"""Times verifying a file that is in the page cache, and one that is not."""

from __future__ import annotations

import shutil
import subprocess
import zipfile

from benchmarks import saving
from benchmarks.files import evict
from benchmarks.interleaved import Call, medians
from benchmarks.report import Row, Setting
from benchmarks.states import size_bytes, size_text, training
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.formats.verification import verify


def verifying(setting: Setting) -> list[Row]:
    """Warm beside `testzip`, which computes the same checksums; cold beside reading the file."""
    checkpoint = training(setting.sizes.medium).checkpoint()
    saving.ours(checkpoint, setting.directory)()
    size, path = size_bytes(checkpoint), str(setting.directory / "model_0.pt")
    del checkpoint

    def mine() -> None:
        if (verdict := verify(path)).status is not Status.INTACT:
            raise RuntimeError(f"what was just saved is {verdict.status}: {verdict.reason}")

    def testzip() -> None:
        with zipfile.ZipFile(path) as file:
            file.testzip()

    def row(state: str, against: str, call: Call, bound: float) -> Row:
        before = (lambda: evict(path)) if state == "cold" else (lambda: None)
        timings = medians({"ours": mine, "other": call}, setting.rounds * 2, before)
        what = f"verify {size_text(size)}, {state}"
        times = timings["ours"].wall_s, timings["other"].wall_s
        return Row(f"verify {state}", what, against, *times, setting.rounds * 2, bound, limit=state == "cold")

    rows = [row("warm", "`zipfile.testzip`", testzip, 0.35)]
    if dd := shutil.which("dd"):
        command = [dd, f"if={path}", "of=/dev/null", "bs=8M", "status=none"]
        rows.append(row("cold", "`dd bs=8M of=/dev/null`", lambda: subprocess.run(command, check=True), 1.15))
    else:
        setting.leave_out("verifying cold is left out, since dd is not installed")
    return rows
