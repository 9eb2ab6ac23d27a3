"""The table of the reference that says, layout by layout, which damage `verify` does not notice.

python -m tests.support.damage_table    writes it into the page
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from tests.support.damaging import Said, alike_names, flipped, mixed, removed, swapped, truncated
from tests.support.folders import REPOSITORY
from tests.support.foreign.corpus import CHECKPOINTS
from tests.support.foreign.made import Made

PAGE = "docs/reference/layouts.md"
LAYOUTS = {  # in the table, and in the corpus
    "Hugging Face, one file": "hf-single",
    "Hugging Face, shards": "hf-sharded",
    "Hugging Face, `.bin` shards": "hf-sharded-bin",
    "PEFT adapter": "hf-adapter",
    "Trainer": "trainer-of-ranks",
    "Trainer with DeepSpeed": "trainer-deepspeed",
    "Accelerate": "accelerate-of-two",
    "Accelerate with FSDP": "accelerate-fsdp",
    "DCP, torchtitan": "dcp",
    "DCP with metadata of each rank": "dcp-apart",
    "DCP in safetensors": "dcp-hugging-face",
    "Megatron-Core": "megatron",
    "Lightning, sharded": "lightning-sharded",
    "DeepSpeed ZeRO-1, 2": "deepspeed",
    "DeepSpeed ZeRO-3": "deepspeed-zero3",
    "a `torch.save` file": "nanogpt",
}
_HEAD = ("layout", "file removed", "file cut", "bit flipped", "two files swapped", "file of another step")
_BEGIN, _END = "<!-- damage: begin -->\n", "<!-- damage: end -->\n"


def rows(directory: Path, layouts: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Damages checkpoints of some layouts in all ways.

    Some tools write the path of a checkpoint into it. So each is made by a relative one: how long that of the
    directory is would else move the bits that are flipped.

    Args:
        directory: where they are made.
        layouts: what they are called in the table, and in the corpus.

    Returns:
        For each layout its name, and for each kind of damage what of it is not noticed.
    """
    with contextlib.chdir(directory):
        return list(_rows(layouts))


def _rows(layouts: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    for number, (title, name) in enumerate(layouts.items()):
        places = [Path(f"{number:02}"), Path(f"{number:02}-other")]
        for place in places:
            place.mkdir()
        made = CHECKPOINTS[name](places[0])
        other = _other_step(CHECKPOINTS[name], places[1])
        all_said: list[Iterable[Said]] = [
            removed(made), truncated(made, in_turn=True), flipped(made), swapped(made), mixed(made, other)
        ]  # fmt: skip
        yield title, *(_unnoticed(list(said), made) for said in all_said)


def _other_step(make: Callable[..., Made], directory: Path) -> Made:
    return make(directory, step=8)


def _unnoticed(said: list[Said], made: Made) -> str:
    """The files of which some damage is not noticed."""
    if not said:
        return "–"
    missed = [one for one in said if not one.is_noticed and one.file not in made.spare]
    names = dict.fromkeys(alike_names(one.file) for one in missed)
    return ", ".join(f"`{name}`" for name in names) or "all noticed"


def table(found: Iterable[tuple[str, ...]]) -> str:
    """The table as it is in the page."""
    lines = ["| " + " | ".join(row) + " |" for row in (_HEAD, ("---",) * len(_HEAD), *found)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the table into the page."""
    page = REPOSITORY / PAGE
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    with tempfile.TemporaryDirectory() as directory:
        made = table(rows(Path(directory), LAYOUTS))
    page.write_text(f"{before}{_BEGIN}\n{made}\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
