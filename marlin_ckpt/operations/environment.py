"""What a report of a fault should say of the machine: versions, platform, limits. Without torch."""

import contextlib
import os
import re
import sys
from dataclasses import dataclass
from importlib import metadata

from marlin_ckpt.operations.memory import limit_bytes
from marlin_ckpt.version import __version__

REQUIRED = ("torch", "numpy", "safetensors", "isal", "typer", "rich", "PyYAML")
OPTIONAL = ("lightning", "transformers", "accelerate", "pytorch-ignite", "peft", "torchdata", "boto3")

# Which accelerator torch was built for, in the module that its build writes; reading it imports nothing.
_BUILD = re.compile(r"^(cuda|hip|xpu)\b[^=\n]*= *'([^']+)'", re.MULTILINE)
_BUILDS = {"cuda": "CUDA", "hip": "ROCm", "xpu": "XPU"}


@dataclass(frozen=True, slots=True)
class Versions:
    """What is installed.

    Attributes:
        marlin_ckpt: the version of this package.
        python: that of Python.
        packages: those of `REQUIRED` and `OPTIONAL`, None for what is not installed.
        torch_build: what torch was built for: `CUDA 12.8`, `ROCm 6.4`, `XPU 2025`, `CPU`; "" where that is
            not known.
    """

    marlin_ckpt: str
    python: str
    packages: dict[str, str | None]
    torch_build: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What all of it runs on.

    Attributes:
        system: `Linux`.
        kernel: its release.
        architecture: `x86_64`.
        libc: the C library with its version: `glibc 2.36`; "" where it does not say.
        cores: that this process may use.
        memory_bytes: of the machine.
        memory_limit_bytes: the least that a control group allows; None where none does.
    """

    system: str
    kernel: str
    architecture: str
    libc: str
    cores: int
    memory_bytes: int
    memory_limit_bytes: int | None


def versions() -> Versions:
    """Looks up what is installed, importing none of it."""
    packages = {name: _version(name) for name in (*REQUIRED, *OPTIONAL)}
    return Versions(__version__, ".".join(map(str, sys.version_info[:3])), packages, _torch_build())


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _torch_build() -> str:
    try:
        path = metadata.distribution("torch").locate_file("torch/version.py")
        with open(str(path), encoding="utf-8") as file:
            text = file.read()
    except (metadata.PackageNotFoundError, OSError, UnicodeDecodeError):
        return ""
    found = _BUILD.search(text)
    return f"{_BUILDS[found[1]]} {found[2]}" if found else "CPU"


def machine() -> Machine:
    """Looks at the machine and at the limits of this process."""
    named = os.uname()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        named.sysname,
        named.release,
        named.machine,
        _libc(),
        len(os.sched_getaffinity(0)),
        memory,
        limit_bytes(memory),
    )


def _libc() -> str:
    with contextlib.suppress(ValueError, OSError):  # musl has no such name
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    return ""
