"""The structure of one torch file: its records and where their data starts."""

from typing import NamedTuple

from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.zip.structures import Record


class Container(NamedTuple):
    """The structure of one file.

    Attributes:
        path: where it is, for messages.
        records: in the order of their place in the file.
        data_offsets: where each record's data starts, by record name.
        manifest: ours, or None in a file by another tool.
        repacked: in words, how it is packed otherwise than marlin-ckpt and torch do; "" where it is not.
    """

    path: str
    records: tuple[Record, ...]
    data_offsets: dict[str, int]
    manifest: Manifest | None = None
    repacked: str = ""

    @property
    def has_checksums(self) -> bool:
        """Whether CRCs were computed; `torch.serialization.set_crc32_options(False)` leaves them all zero."""
        return any(record.crc32 for record in self.records)

    @property
    def by_label(self) -> dict[str, Record]:
        """The records of the archive that `data.pkl` is in, by their names inside it, `data/0`.

        Another archive may share the file: its records are of another state, whatever their labels are.
        """
        archive = next(one.name.partition("/")[0] for one in self.records if one.label == "data.pkl")
        return {one.label: one for one in self.records if one.name == f"{archive}/{one.label}"}
