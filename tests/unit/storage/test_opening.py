"""Files of a store are opened by several threads at once, which read the pieces of a sharded tensor."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from marlin_ckpt.storage.local.store import open_store


@pytest.fixture
def hasty():
    """Threads take turns at every step."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_files_in_different_folders_are_opened_at_once_and_are_the_right_ones(tmp_path):
    for folder in "abcd":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "shard").write_text(folder)
    asked = ["abcd"[number % 4] for number in range(2_000)]
    with open_store(tmp_path) as store, ThreadPoolExecutor(8) as pool:

        def read(folder: str) -> str:
            with store.open(f"{folder}/shard") as source:
                return source.read(0, source.size_bytes).decode()

        assert list(pool.map(read, asked)) == asked
