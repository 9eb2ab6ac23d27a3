"""Versions, machine and file system, as `env` prints them for a report of a fault."""

from collections.abc import Iterator
from typing import Any

from marlin_ckpt.cli import output
from marlin_ckpt.cli.text import count, size
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.escaping import escape
from marlin_ckpt.operations.environment import OPTIONAL, REQUIRED, Machine, Versions
from marlin_ckpt.storage.local.abilities import Place

_ABILITIES = {
    "direct_io": "O_DIRECT",
    "preallocation": "fallocate",
    "shared_blocks": "shared blocks",
    "hard_links": "hard links",
    "exchange": "RENAME_EXCHANGE",
    "flock": "flock",
    "fcntl_locks": "fcntl locks",
    "directory_sync": "fsync of directories",
}
_IS_NETWORK = {True: ", on a network", False: ", local", None: ""}


def show(versions: Versions, machine: Machine, directory: str, place: Place) -> None:
    """Prints a line for each fact.

    Args:
        versions: what is installed.
        machine: what it runs on.
        directory: as it was given.
        place: what its file system is and can do.
    """
    for title, text in [*_versions(versions), *_machine(machine), *_place(directory, place)]:
        output.data(f"{title:<20} {text}" if title else "")


def _versions(found: Versions) -> Iterator[tuple[str, str]]:
    yield "marlin-ckpt", found.marlin_ckpt
    yield "Python", found.python
    for name in REQUIRED:
        build = f", built for {escape(found.torch_build)}" if name == "torch" and found.torch_build else ""
        yield name, escape(found.packages[name] or "not installed") + build
    for name in OPTIONAL:
        if version := found.packages[name]:
            yield name, escape(version)
    yield "", ""


def _machine(found: Machine) -> Iterator[tuple[str, str]]:
    libc = f", {escape(found.libc)}" if found.libc else ""
    yield "platform", f"{escape(found.system)} {escape(found.kernel)} {escape(found.architecture)}{libc}"
    limit = found.memory_limit_bytes
    memory = size(found.memory_bytes) + ("" if limit is None else f", limited to {size(limit)} by a cgroup")
    yield "hardware", f"{count(found.cores, 'core')}, memory {memory}"
    yield "", ""


def _place(directory: str, found: Place) -> Iterator[tuple[str, str]]:
    mount = found.mount
    yield "directory", escape(directory)
    kind = escape(mount.file_system) or "of a type that is not known"
    yield "file system", kind + _IS_NETWORK[mount.is_network]
    if mount.options:
        yield "mounted with", escape(", ".join(mount.options))
    yield "space", f"{size(found.free_bytes)} free of {size(found.total_bytes)}"
    yield "block size", f"{found.block_bytes} B"
    if found.refusal:
        yield "files", f"none can be made: {escape(found.refusal)}"
    elif found.free_files is not None:
        yield "files", f"{found.free_files:,} more can be made"
    for name, title in _ABILITIES.items():
        if name in found.abilities:
            reason = found.abilities[name]
            yield title, f"no: {escape(reason)}" if reason else "works"


def document(versions: Versions, machine: Machine, directory: str, place: Place) -> dict[str, Any]:
    """The document of `env --json`; its arguments are those of `show`."""
    limits = "cores", "memory_bytes", "memory_limit_bytes"
    return {
        **facts(versions, "marlin_ckpt", "python", "packages"),
        "torch_build": versions.torch_build or None,
        "platform": {**facts(machine, "system", "kernel", "architecture"), "libc": machine.libc or None},
        **facts(machine, *limits),
        "directory": directory,
        "file_system": place.mount.file_system or None,
        "mount_options": place.mount.options,
        **facts(place.mount, "is_network"),
        **facts(place, "free_bytes", "total_bytes", "free_files", "block_bytes"),
        "is_writable": not place.refusal,
        "refusal": place.refusal or None,
        "abilities": {name: _ability(place, name) for name in _ABILITIES},
    }


def _ability(place: Place, name: str) -> dict[str, Any]:
    reason = place.abilities.get(name)
    return {"works": None if reason is None else not reason, "reason": reason or None}
