"""The picture of the layers and the list of the packages, from the import contracts and the docstrings."""

from __future__ import annotations

import ast
import html
import tomllib
from pathlib import Path
from typing import NamedTuple

import marlin_ckpt

_CONTRACTS = Path(__file__).parents[1] / "pyproject.toml"

# What the contracts keep to some folders, as the picture has it, and what of the contract says so.
_CONFINED = {
    "torch": "torch",
    "typer": "typer, rich",
    "yaml": "PyYAML",
    "boto3": "boto3",
    "lightning": "Lightning, Transformers, Accelerate, Ignite",
}


class Part(NamedTuple):
    """A package, or a module of the top, as a box of the picture.

    Attributes:
        name: below `marlin_ckpt`.
        uses: the packages of others that some folders alone may import, and this is one of them.
    """

    name: str
    uses: tuple[str, ...]

    @property
    def file(self) -> Path:
        """Where its docstring is."""
        folder = Path(marlin_ckpt.__file__).parent / self.name
        return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")

    @property
    def label(self) -> str:
        """Its name, with a slash where it is a package."""
        return f"{self.name}/" if self.file.stem == "__init__" else self.name


def layers() -> list[list[Part]]:
    """The layers, the top one first, each with the parts that are side by side in it."""
    contracts = tomllib.loads(_CONTRACTS.read_text())["tool"]["importlinter"]["contracts"]
    (order,) = (one["layers"] for one in contracts if one["type"] == "layers")
    forbidden = [one for one in contracts if one["type"] == "forbidden"]

    def part(module: str) -> Part:
        uses = [
            shown if where == module else f"{shown} in {where.removeprefix(f'{module}.')}/ alone"
            for package, shown in _CONFINED.items()
            for one in forbidden
            if package in one["forbidden_modules"]
            for where in _exempt(module, package, one["ignore_imports"])
        ]
        return Part(module.removeprefix("marlin_ckpt."), tuple(uses))

    return [[part(module.strip()) for module in layer.split("|")] for layer in order]


def _exempt(module: str, package: str, ignored: list[str]) -> list[str]:
    """The module itself, or folders in it, that a contract lets import a package."""
    pairs = [one.split(" -> ") for one in ignored]
    found = dict.fromkeys(source.removesuffix(".**") for source, target in pairs if target in (package, "*"))
    return [one for one in found if one == module or one.startswith(f"{module}.")]


def summary(file: Path) -> str:
    """The first paragraph of a module's docstring, in one line."""
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return " ".join(text.partition("\n\n")[0].split())


# In pixels; the picture is as wide as a telephone shows it, so that its text is not made smaller there.
_WIDTH, _LEFT, _GAP, _PAD = 344, 22, 6, 7
_LINE, _PER_ROW = 17, 2
_STYLE = """
.layers { max-width: 100%; height: auto; font: 13px var(--font-stack--monospace, monospace); }
.layers rect { fill: var(--color-background-secondary, #f8f9fb); }
.layers rect { stroke: var(--color-foreground-border, #878787); }
.layers text { fill: var(--color-foreground-primary, #222); }
.layers .uses { fill: var(--color-foreground-secondary, #555); font: 11px var(--font-stack, sans-serif); }
.layers path { stroke: var(--color-foreground-secondary, #555); fill: none; stroke-width: 1.5; }
"""


def picture() -> str:
    """The layers as an SVG, whose colours are those of the page that it stands in."""
    boxes, top = [], 4
    for layer in layers():
        for begin in range(0, len(layer), _PER_ROW):
            row = layer[begin : begin + _PER_ROW]
            width = (_WIDTH - 1 - _LEFT - _GAP * (len(row) - 1)) / len(row)
            lines = [[one.label, *_wrapped(one.uses, width)] for one in row]
            height = max(map(len, lines)) * _LINE + 2 * _PAD
            for place, texts in enumerate(lines):
                boxes.append(_box(_LEFT + place * (width + _GAP), top, width, height, texts))
            top += height + (_GAP if begin + _PER_ROW >= len(layer) else 2)
    arrow = f'<path d="M 9 8 V {top - 10} m -5 -7 l 5 7 l 5 -7"/>'
    names = ", ".join(part.name for layer in layers() for part in layer)
    return (
        f'<svg class="layers" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" '
        f'width="{_WIDTH}" height="{top}" role="img" aria-labelledby="layers-title layers-names">\n'
        '<title id="layers-title">The layers: each may import what is below it, never what is above</title>\n'
        f'<desc id="layers-names">From the top down: {names}</desc>\n'
        f"<style>{_STYLE}</style>\n{arrow}\n{''.join(boxes)}</svg>\n"
    )


def _wrapped(uses: tuple[str, ...], width: float) -> list[str]:
    """What a box says of the packages of others, in lines that fit into it."""
    most, found = int((width - 2 * _PAD) / 6), [""]
    for word in ", ".join(uses).split():
        if found[-1] and len(found[-1]) + len(word) >= most:
            found.append("")
        found[-1] = f"{found[-1]} {word}".strip()
    return [one for one in found if one]


def _box(left: float, top: float, width: float, height: float, lines: list[str]) -> str:
    parts = [f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="4"/>\n']
    for number, line in enumerate(lines):
        at = top + _PAD + 12 + number * _LINE
        kind = ' class="uses"' if number else ""
        parts.append(f'<text x="{left + _PAD:g}" y="{at:g}"{kind}>{html.escape(line)}</text>\n')
    return "".join(parts)


def guide() -> str:
    """What each package does, in the words of its docstring, as a list of Markdown."""
    rows = []
    for part in (part for layer in layers() for part in layer):
        rows.append(f"- `{part.label}`: {summary(part.file)}")
        below = sorted(part.file.parent.glob("*/__init__.py")) if part.label.endswith("/") else []
        rows += [f"  - `{part.label}{file.parent.name}/`: {summary(file)}" for file in below]
    return "\n".join(rows) + "\n"


def write(directory: Path) -> None:
    """Writes both into a directory, where the page on the architecture includes them."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "layers.svg").write_text(picture(), encoding="utf-8")
    (directory / "packages.md").write_text(guide(), encoding="utf-8")
