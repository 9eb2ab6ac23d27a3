"""The structure of one torch file: its records and where their data starts."""

from typing import NamedTuple

from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.zip.structures import Record


class Container(NamedTuple):
    """The structure of a zip file: its records and where their data begins.

    Attributes:
        path: the file.
        records: the records in the order of their place in the file.
        data_offsets: where the data of each record begins in the file, in bytes, by the record's name.
        manifest: the manifest; None if marlin-ckpt did not write the file.
        repacked: how it is packed in another way than marlin-ckpt and torch do, in words; else `""`.
    """

    path: str
    records: tuple[Record, ...]
    data_offsets: dict[str, int]
    manifest: Manifest | None = None
    repacked: str = ""

    @property
    def has_checksums(self) -> bool:
        """Whether CRCs were computed; `torch.serialization.set_crc32_options(False)` makes all of them 0."""
        return any(record.crc32 for record in self.records)

    @property
    def by_label(self) -> dict[str, Record]:
        """The records of the archive that `data.pkl` is in, by their names in it, such as `data/0`.

        A file may hold a second archive, whose records are of another state.
        """
        folder = next(one.name.partition("/")[0] for one in self.records if one.label == "data.pkl") + "/"
        return {one.name[len(folder) :]: one for one in self.records if one.name.startswith(folder)}
