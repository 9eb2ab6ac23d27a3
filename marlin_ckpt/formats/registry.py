"""What can be asked of each format: one object for each, found by the format's value."""

from collections.abc import Mapping
from typing import Protocol

from marlin_ckpt.formats.format import Format, format_of
from marlin_ckpt.formats.verdicts import Finding, Status
from marlin_ckpt.formats.zip import reader
from marlin_ckpt.formats.zip.container import Container
from marlin_ckpt.formats.zip.records import OnBytes, check_storages, read_records
from marlin_ckpt.storage.source import Source
from marlin_ckpt.storage.sums import read_whole


class FileFormat(Protocol):
    """A format of files.

    Each method raises `BadFileError` for a file that is damaged or is not what it seems, and `StorageError`
    for one that cannot be read.
    """

    def inspect(self, source: Source) -> Finding:
        """Looks at the structure, as little of it as tells what the file is; reads no tensor."""

    def verify(self, source: Source, on_bytes: OnBytes) -> Finding:
        """Reads every byte and compares every checksum; `on_bytes` is told how many more were read.

        A format without checksums is read all the same: what a disk cannot give back is found so.
        """
        found = self.inspect(source)
        read_whole(source, on_bytes)
        return found


class _Zip(FileFormat):
    """What `torch.save` writes, and we."""

    def inspect(self, source: Source) -> Finding:
        return _of_container(reader.read_container(source, every_header=False), Status.COMPLETE)

    def verify(self, source: Source, on_bytes: OnBytes) -> Finding:
        container = reader.read_container(source)
        if container.has_checksums:
            read_records(source, container, on_bytes=on_bytes)
        else:
            read_whole(source, on_bytes)
        # Elsewhere the manifest lists all records, or the form of the whole says that torch.save wrote it.
        if container.repacked and container.manifest is None:
            check_storages(source, container)
        return _of_container(container, Status.INTACT)


class _Legacy(FileFormat):
    """What torch wrote before 1.6."""

    def inspect(self, source: Source) -> Finding:
        del source
        return Finding(Status.UNVERIFIABLE, "a legacy torch file, which has no checksums")

    def verify(self, source: Source, on_bytes: OnBytes) -> Finding:
        from marlin_ckpt.formats import legacy  # noqa: PLC0415 - most files are zips
        from marlin_ckpt.formats.pickle.reader import unpickling  # noqa: PLC0415

        with unpickling(source.path):
            legacy.read_legacy(source)
        return super().verify(source, on_bytes)


class _Safetensors(FileFormat):
    """What Hugging Face's safetensors writes."""

    def inspect(self, source: Source) -> Finding:
        from marlin_ckpt.formats.safetensors.header import read_header  # noqa: PLC0415 - as above

        read_header(source)
        return Finding(Status.UNVERIFIABLE, "the structure holds; safetensors files have no checksums")


class _Pickle(FileFormat):
    """What `pickle.dump` writes."""

    def inspect(self, source: Source) -> Finding:
        from marlin_ckpt.formats import bare  # noqa: PLC0415 - as above

        bare.check_end(source)
        return Finding(Status.UNVERIFIABLE, "a bare pickle, which has no checksums")

    def verify(self, source: Source, on_bytes: OnBytes) -> Finding:
        from marlin_ckpt.formats import bare  # noqa: PLC0415 - as above
        from marlin_ckpt.formats.pickle.reader import unpickling  # noqa: PLC0415

        with unpickling(source.path):
            bare.read_bare(source)
        return super().verify(source, on_bytes)


_FORMATS: Mapping[Format, FileFormat] = {
    Format.ZIP: _Zip(),
    Format.LEGACY: _Legacy(),
    Format.SAFETENSORS: _Safetensors(),
    Format.PICKLE: _Pickle(),
}


def open_format(source: Source) -> FileFormat:
    """What can be asked of a file; raises as `format_of` does."""
    return _FORMATS[format_of(source)]


def _of_container(container: Container, status: Status) -> Finding:
    if not container.has_checksums:
        return Finding(Status.UNVERIFIABLE, "saved without checksums", container.manifest)
    if container.repacked:
        return Finding(Status.REPACKED, container.repacked, container.manifest)
    return Finding(status, "", container.manifest)
