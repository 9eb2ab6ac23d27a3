"""Draws the pictures of a report that the README and the page on reports show.

    python -m tools.report_pictures

It makes a run for them, needs Debian's `chromium` and `pngquant`, and takes a minute. Look at what it has
drawn: the heights are those of today's page.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools import example_run

REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Picture:
    """A picture of a part of the page.

    Attributes:
        file: where it goes, in the repository.
        width: of the window, in pixels.
        height: of the picture.
        hidden: what of the page is left out, as CSS selects it.
    """

    file: str
    width: int
    height: int
    hidden: str


PICTURES = (
    Picture("docs/how-to/report.png", 960, 2126, "#theme, #sizes, #retention, #runs, #checkpoints, footer"),
    Picture(
        "docs/report.png", 960, 990, "header, nav, .facts, .note, .switches, details, #timeline, #unfold"
    ),
)


def draw(page: str, picture: Picture, scratch: Path) -> None:
    """Draws one.

    Args:
        page: the text of a report.
        picture: what to draw of it.
        scratch: where a copy of the page can go.

    Raises:
        subprocess.CalledProcessError: the browser or pngquant fails.
    """
    # The copy has a style that the page's own policy would refuse.
    copy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    copy = copy.replace("</head>", f"<style>{picture.hidden} {{ display: none !important }}</style></head>")
    (scratch / "copy.html").write_text(copy, encoding="utf-8")
    shot = scratch / "shot.png"
    window = f"--window-size={picture.width},{picture.height}"
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=2000",
    ]
    address = (scratch / "copy.html").as_uri()
    _run("chromium", *flags, window, f"--screenshot={shot}", address)
    target = REPOSITORY / picture.file
    _run("pngquant", "--force", "--nofs", "--speed=1", "--strip", "--output", str(target), "64", str(shot))


def _run(*command: str, directory: Path | None = None) -> None:
    subprocess.run(command, check=True, cwd=directory)  # noqa: S603 - ours


def main() -> None:
    """Makes the run, its report, and the pictures."""
    with tempfile.TemporaryDirectory(prefix="report-pictures-") as folder:
        scratch = Path(folder)
        example_run.make(scratch / "sonnets")
        command = (sys.executable, "-m", "marlin_ckpt", "report", "sonnets", "-o", "report.html")
        _run(*command, directory=scratch)
        page = (scratch / "report.html").read_text(encoding="utf-8")
        for picture in PICTURES:
            draw(page, picture, scratch)


if __name__ == "__main__":
    main()
