"""Objects of which the store copies what is in the one before are what they would be if all were sent."""

from __future__ import annotations

import mmap
import random

import pytest
from xxhash import xxh3_128

from marlin_ckpt.storage.s3.store import S3Store
from marlin_ckpt.storage.s3.uploading import copying, cutting, parts
from marlin_ckpt.storage.target import Earlier
from marlin_ckpt.urls import parse
from tests.support.memory_s3 import MemoryClient

KIB = 1 << 10
LEAST = 20 * KIB  # of a part


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> MemoryClient:
    """A store in memory, to which all is uploaded in units of KiB and not of MiB."""
    monkeypatch.setattr(cutting, "LEAST_PART", LEAST)
    monkeypatch.setattr(cutting, "_MOST_COPIED", 300 * KIB)
    monkeypatch.setattr(copying, "_LEAST_PART", 64 * KIB)
    monkeypatch.setattr(copying, "_LEAST_BLOCK", 4 * KIB)
    monkeypatch.setattr(parts, "part_bytes", lambda *_: 64 * KIB)
    return MemoryClient(LEAST)


class Saves:
    """Saves to a store in memory, one after the other."""

    def __init__(self, client: MemoryClient) -> None:
        self.client, self.store = client, S3Store(client, parse("s3://bucket/run"))
        self.earlier = Earlier(xxh3_128)

    def save(self, records: list[bytes], name: str, *, image: bool = False) -> int:
        """Writes records one behind the other, and says how many bytes were sent."""
        data, before = b"".join(records), self.client.sent_bytes
        whole = None
        if image:
            whole = memoryview(mmap.mmap(-1, len(data) + 1))
            whole[: len(data)] = data

        def fill(target) -> None:
            at = 0
            for record in records:
                target.put(record if whole is None else whole[at : at + len(record)])
                at += len(record)

        self.store.publish(name, len(data), fill, image=whole, earlier=self.earlier)
        assert self.client.objects[f"run/{name}"][1] == data
        return self.client.sent_bytes - before


def changed(records: list[bytes], draw: random.Random) -> list[bytes]:
    """Records of which some have changed, gone, come, grown, shrunk or moved."""
    found = []
    for record in records:
        what = draw.choices(range(6), [30, 3, 1, 1, 1, 1])[0]
        if what == 0 or not record:
            found.append(record)
        elif what == 1:
            at = draw.randrange(len(record))
            found.append(record[:at] + draw.randbytes(min(9, len(record) - at)) + record[at + 9 :])
        elif what == 3:
            found += [draw.randbytes(draw.choice([3, 70, 200 * KIB])), record]
        elif what == 4:
            found.append(record + draw.randbytes(draw.randrange(2 * len(record))))
        elif what == 5:
            found.append(record[: len(record) // 2])
    if draw.random() < 0.1:
        draw.shuffle(found)
    return found


def drawn(draw: random.Random) -> list[bytes]:
    """Records of all lengths, of some of which all blocks are alike."""
    lengths = [300, 200 * KIB, 200 * KIB, 100 * KIB]
    sizes = [draw.randrange(draw.choice(lengths)) for _ in range(draw.randrange(1, 12))]
    return [bytes(size) if draw.random() < 0.3 else draw.randbytes(size) for size in sizes]


@pytest.mark.parametrize("wants_one_length", [False, True])
@pytest.mark.parametrize("image", [False, True])
def test_an_object_is_to_the_byte_what_it_would_be_whatever_has_changed_in_it(
    client, image, wants_one_length, cases
):
    client.wants_one_length = wants_one_length
    for seed in range(cases(30, 1500)):
        draw, saves = random.Random(seed), Saves(client)
        records = drawn(draw)
        for save in range(4):
            saves.save(records, f"model_{save % 3}.pt", image=image)
            records = changed(records, draw)
        client.objects.clear()
    assert client.copied > 0


@pytest.mark.parametrize("image", [False, True])
def test_what_has_changed_is_sent_and_around_it_no_more_than_blocks_and_short_parts(client, image):
    draw, saves = random.Random(1), Saves(client)
    records = [draw.randbytes(1000), *(draw.randbytes(150 * KIB) for _ in range(20))]
    size = sum(map(len, records))
    assert saves.save(records, "model_1.pt", image=image) == size
    for number, places in enumerate([[0], [0, 4, 12], [0, 7, 8], [0]]):
        for place in places:
            records[place] = draw.randbytes(len(records[place]))
        sent = saves.save(records, f"model_{number + 2}.pt", image=image)
        assert sent < sum(len(records[place]) for place in places) + len(places) * (LEAST + 4 * KIB)


def test_what_comes_to_lie_elsewhere_is_copied_from_where_it_was(client):
    draw, saves = random.Random(1), Saves(client)
    frozen = [draw.randbytes(100 * KIB) for _ in range(10)]
    saves.save([b"short", *frozen], "model_1.pt")
    assert saves.save([draw.randbytes(333), *frozen], "model_2.pt") < 2 * LEAST
    assert saves.save([draw.randbytes(90 * KIB), *frozen, b"end"], "model_3.pt") < 90 * KIB + 2 * LEAST


def test_what_is_one_part_is_sent_and_nothing_is_remembered_of_it(client):
    saves = Saves(client)
    saves.save([bytes(200 * KIB)], "model_1.pt")
    assert saves.earlier.last is not None
    saves.save([bytes(64 * KIB)], "model_2.pt")
    assert saves.earlier.last is None


def test_a_store_that_wants_parts_of_one_length_copies_those_in_which_nothing_has_changed(client):
    draw, saves = random.Random(1), Saves(client)
    client.wants_one_length = True
    records = [draw.randbytes(1000), *(draw.randbytes(150 * KIB) for _ in range(20))]
    size = sum(map(len, records))
    sent = []
    for number in range(4):
        records[0], records[7] = draw.randbytes(1000), draw.randbytes(150 * KIB)
        sent.append(saves.save(records, f"model_{number}.pt"))
    assert sent[1] > size  # it is refused once, and sent anew
    assert max(sent[2:]) < 2 * 64 * KIB + 150 * KIB + 2 * 64 * KIB
    assert client.wants_even_parts
    assert not client.lacks_copies
