"""What bit rot, torn blocks, cuts and stray bytes do to a file of 5 MB: it is refused or loads unharmed."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from marlin_ckpt import BadFileError, Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.formats.verification import verify
from tests.support.equality import is_same

BLOCK = 4096
MEMORY = "/dev/shm"  # where there is one: 40,000 damaged files cost no disk its life


def make_state() -> dict[str, Any]:
    """Sixty tensors of 0 to 1 MB and of several types, together 5 MB, among values of other kinds."""
    generator = torch.Generator().manual_seed(7)
    weights: dict[str, Any] = {
        f"layer.{number}.weight": torch.randn(300 + 1200 * number, generator=generator)
        for number in range(40)
    }
    weights["embedding"] = torch.randn(500, 500, generator=generator)
    weights["embedding.first"] = weights["embedding"][:3]
    for number, kind in enumerate((torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8)):
        weights[f"typed.{number}"] = torch.randint(0, 200, (7, 60 + number), generator=generator).to(kind)
    weights |= {f"small.{number}": torch.tensor(float(number)) for number in range(12)}
    weights |= {"flags": torch.arange(3000) % 3 == 0, "zeros": torch.zeros(9000), "none": torch.empty(0, 4)}
    optimizer = {"step": 17, "lr": 0.125, "betas": (0.9, 0.999), "names": sorted(weights)}
    return {
        "module_interface_state": weights,
        "trainer_state": {"last_epoch": 3, "best": float("inf")},
        "trainer_backend_state": {"optimizer": optimizer, "seed": list(range(100))},
    }


@dataclass(frozen=True)
class Fault:
    """Bytes written over a file, and the length that it has afterwards; both can be undone."""

    kind: str
    writes: tuple[tuple[int, bytes], ...]
    size: int


@dataclass
class Victim:
    """A whole file, kept open, to be damaged in place."""

    path: Path
    whole: bytes
    metadata: list[range]

    @classmethod
    def of(cls, path: Path) -> Victim:
        whole = path.read_bytes()
        metadata, at = [], 0
        with zipfile.ZipFile(path) as archive:
            for info in sorted(archive.infolist(), key=lambda one: one.header_offset):
                lengths = struct.unpack_from("<HH", whole, info.header_offset + 26)
                start = info.header_offset + 30 + sum(lengths)
                if "/data/" in info.filename:
                    metadata.append(range(at, start))
                    at = start + info.file_size
        return cls(path, whole, [*metadata, range(at, len(whole))])

    def changes(self, fault: Fault) -> bool:
        changed = any(self.whole[at : at + len(data)] != data for at, data in fault.writes)
        return changed or fault.size != len(self.whole)

    @contextlib.contextmanager
    def damaged(self, fault: Fault) -> Iterator[None]:
        fd = os.open(self.path, os.O_RDWR)
        try:
            for at, data in fault.writes:
                os.pwrite(fd, data, at)
            os.ftruncate(fd, fault.size)
            yield
        finally:
            os.ftruncate(fd, len(self.whole))
            os.pwrite(fd, self.whole[fault.size :], fault.size)
            for at, data in fault.writes:
                os.pwrite(fd, self.whole[at : at + len(data)], at)
            os.close(fd)


def flip(kind: str, victim: Victim, chance: random.Random, at: int) -> Fault:
    return Fault(kind, ((at, bytes([victim.whole[at] ^ 1 << chance.randrange(8)])),), len(victim.whole))


def flip_anywhere(victim: Victim, chance: random.Random) -> Fault:
    return flip("flip", victim, chance, chance.randrange(len(victim.whole)))


def flip_in_metadata(victim: Victim, chance: random.Random) -> Fault:
    number = chance.randrange(sum(map(len, victim.metadata)))
    for part in victim.metadata:
        if number < len(part):
            break
        number -= len(part)
    return flip("flip in metadata", victim, chance, part[number])


def truncate(victim: Victim, chance: random.Random) -> Fault:
    return Fault("truncation", (), chance.randrange(len(victim.whole)))


def zero_a_block(victim: Victim, chance: random.Random) -> Fault:
    at = chance.randrange(0, len(victim.whole), BLOCK)
    return Fault("zeroed block", ((at, bytes(min(BLOCK, len(victim.whole) - at))),), len(victim.whole))


def swap_two_blocks(victim: Victim, chance: random.Random) -> Fault:
    first, second = (at * BLOCK for at in chance.sample(range(len(victim.whole) // BLOCK), 2))
    blocks = [victim.whole[at : at + BLOCK] for at in (first, second)]
    return Fault("swapped blocks", ((first, blocks[1]), (second, blocks[0])), len(victim.whole))


def append(victim: Victim, chance: random.Random) -> Fault:
    data = chance.choice([bytes, chance.randbytes])(chance.randrange(1, 2 * BLOCK))
    return Fault("appended bytes", ((len(victim.whole), data),), len(victim.whole) + len(data))


def draw(victim: Victim, number: int, seed: int) -> Iterator[Fault]:
    """So many faults that change the file, three in ten of them flips in what is no tensor's data."""
    chance = random.Random(seed)
    kinds = [*[flip_anywhere] * 3, *[flip_in_metadata] * 3, truncate, zero_a_block, swap_two_blocks, append]
    drawn = 0
    while drawn < number:
        fault = kinds[drawn % len(kinds)](victim, chance)
        if victim.changes(fault):
            drawn += 1
            yield fault


@dataclass(frozen=True)
class Case:
    """What became of one damaged file."""

    kind: str
    places: tuple[int, ...]
    size: int
    verdict: str
    loaded: str


def attempt(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except BadFileError as error:
        return type(error).__name__
    except Exception as error:  # noqa: BLE001 - an error of another family is what this looks for
        return f"stray {type(error).__name__}: {error}"


def campaign(
    victim: Victim,
    faults: Iterator[Fault],
    load: Callable[[], Any],
    check: Callable[[str], Any] = lambda path: verify(path).status,
) -> list[Case]:
    """Damages a file in each way in turn, and asks what is said of it and what it loads as."""
    state, cases = make_state(), []
    for fault in faults:
        with victim.damaged(fault):
            verdict = attempt(lambda: str(check(str(victim.path))))
            loaded = attempt(load)
        if isinstance(loaded, dict):
            loaded = "equal" if is_same(loaded, state) else "other than was saved"
        cases.append(Case(fault.kind, tuple(at for at, _ in fault.writes), fault.size, verdict, loaded))
    return cases


def our_load(path: Path) -> Callable[[], dict[str, Any]]:
    arguments = DefaultCheckpointerArguments(
        load_dir=str(path.parent), load_filename=path.name, log_level="CRITICAL"
    )
    checkpointer = DefaultCheckpointer(arguments)
    return lambda: checkpointer.load().payload()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path_factory.mktemp("faults")
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def ours(directory: Path) -> Victim:
    arguments = DefaultCheckpointerArguments(save_dir=str(directory / "ours"), model_state_save_dir=None)
    return Victim.of(Path(DefaultCheckpointer(arguments).save(Checkpoint(**make_state()), 1)))


@pytest.fixture(scope="module")
def by_torch(directory: Path) -> Victim:
    (directory / "torch").mkdir()
    torch.save(make_state(), directory / "torch" / "model_1.pt")
    return Victim.of(directory / "torch" / "model_1.pt")


@pytest.fixture(scope="module")
def cases_of_ours(ours: Victim, cases: Callable[[int, int], int]) -> list[Case]:
    return campaign(ours, draw(ours, cases(300, 20_000), seed=1), our_load(ours.path))


@pytest.fixture(scope="module")
def cases_of_torch(by_torch: Victim, cases: Callable[[int, int], int]) -> list[Case]:
    return campaign(by_torch, draw(by_torch, cases(300, 20_000), seed=2), our_load(by_torch.path))


@pytest.mark.parametrize("fixture", ["ours", "by_torch"])
def test_the_undamaged_file_has_5_mb_is_intact_and_loads_as_it_was_saved(request, fixture):
    victim: Victim = request.getfixturevalue(fixture)
    assert len(victim.whole) == pytest.approx(5e6, rel=0.05)
    (nothing,) = campaign(victim, iter([Fault("none", (), len(victim.whole))]), our_load(victim.path))
    assert (nothing.verdict, nothing.loaded) == (Status.INTACT, "equal")


@pytest.mark.parametrize("fixture", ["cases_of_ours", "cases_of_torch"])
def test_the_faults_are_of_every_kind_and_all_undone_in_the_end(request, ours, by_torch, fixture):
    kinds = {case.kind for case in request.getfixturevalue(fixture)}
    assert len(kinds) == 6
    assert [victim.path.read_bytes() == victim.whole for victim in (ours, by_torch)] == [True, True]


def test_verify_calls_every_changed_file_of_ours_corrupt(cases_of_ours):
    # Of three bytes and fewer nothing tells that they were a checkpoint.
    assert [case for case in cases_of_ours if case.verdict != Status.CORRUPT and case.size > 3] == []


def test_load_refuses_every_changed_file_of_ours(cases_of_ours):
    refusals = ("CorruptCheckpointError", "NotACheckpointError")
    assert [case for case in cases_of_ours if case.loaded not in refusals] == []


def test_no_changed_file_of_torch_save_loads_anything_else_or_raises_a_stray_error(cases_of_torch):
    expected = ("equal", "CorruptCheckpointError", "NotACheckpointError")
    assert [case for case in cases_of_torch if case.loaded not in expected] == []
    assert [case for case in cases_of_torch if case.verdict.startswith("stray")] == []


def test_of_torch_saves_changed_files_one_in_a_thousand_is_called_intact_and_loads_equal(cases_of_torch):
    unnoticed = [case for case in cases_of_torch if case.verdict == Status.INTACT]
    assert [case for case in unnoticed if case.loaded != "equal"] == []
    assert len(unnoticed) <= len(cases_of_torch) / 1000


@pytest.mark.parametrize("fixture", ["ours", "by_torch"])
def test_damage_to_what_a_file_is_known_by_does_not_make_it_something_else(request, fixture):
    victim: Victim = request.getfixturevalue(fixture)
    name, size = victim.whole.rindex(b"/data.pkl"), len(victim.whole)
    faults = [
        Fault("flip", ((at, bytes([victim.whole[at] ^ 1 << bit])),), size)
        for at in (*range(4), *range(name, name + len(b"/data.pkl")))
        for bit in range(8)
    ]
    faults.append(Fault("zeroed block", ((0, bytes(BLOCK)),), len(victim.whole)))
    found = campaign(victim, iter(faults), our_load(victim.path))
    assert [case for case in found if case.verdict != Status.CORRUPT] == []
    assert {case.loaded for case in found} == {"CorruptCheckpointError"}


def test_the_same_faults_load_silently_wrong_with_torch_and_pass_a_check_of_crcs_alone(by_torch, cases):
    # Shows that the campaign and its comparison can fail.
    def testzip(path: str) -> str:
        with zipfile.ZipFile(path) as archive:
            return Status.CORRUPT if archive.testzip() else Status.INTACT

    faults = draw(by_torch, cases(200, 2000), seed=3)
    found = campaign(by_torch, faults, lambda: torch.load(by_torch.path, weights_only=True), testzip)
    wrong = [case for case in found if case.loaded == "other than was saved"]
    assert {"flip", "zeroed block", "swapped blocks"} <= {case.kind for case in wrong}
    assert {"flip in metadata"} <= {case.kind for case in found if case.verdict == Status.INTACT}
