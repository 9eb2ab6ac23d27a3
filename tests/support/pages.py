"""The pages of the documentation, and the blocks of code in them."""

from __future__ import annotations

import re

from tests.support.folders import REPOSITORY

DOCS = REPOSITORY / "docs"
HOW_TO = sorted(path.stem for path in (DOCS / "how-to").glob("*.md") if path.stem != "index")


def page(name: str) -> str:
    """The text of a how-to page."""
    return (DOCS / "how-to" / f"{name}.md").read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The blocks of a language in a how-to page, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page(name), re.MULTILINE | re.DOTALL)


def lines(difference: str, signs: str) -> str:
    """The lines of a diff that begin with one of some signs, without these."""
    return "\n".join(line[1:] for line in difference.splitlines() if line and line[0] in signs)
