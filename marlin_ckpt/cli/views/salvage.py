"""What `salvage` wrote, and what is lost."""

from typing import Any

from marlin_ckpt.cli import output
from marlin_ckpt.cli.text import count, size
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.escaping import escape
from marlin_ckpt.operations.rescue.salvage import Salvage
from marlin_ckpt.operations.rescue.shards import SalvagedFolder


def show(found: Salvage | SalvagedFolder, destination: str) -> None:
    """Prints a line for each lost tensor, or record without one, and what was written."""
    for one in found.lost:
        for name in one.tensors or (f"record {one.record}",):
            output.sentence(f"lost  {escape(name)}" + (f"  ({escape(one.record)})" if one.tensors else ""))
    total = size(sum(one.size for one in found.intact))
    for doubt in found.doubts:
        output.talk(f"in doubt: {escape(doubt)}")
    lost = count(sum(len(one.tensors) for one in found.lost), "tensor")
    intact = f"{count(len(found.intact), 'record')} intact, {total}"
    output.talk(f"wrote {escape(destination)}: {intact}; {lost} lost")


def document(found: Salvage | SalvagedFolder, destination: str) -> dict[str, Any]:
    """The document of `salvage --json`."""
    return {
        **facts(found, "path", "doubts"),
        "output": destination,
        "records": len(found.intact),
        "lost": [facts(one, "record", "tensors") for one in found.lost],
    }
