"""How much memory a process may have, where control groups limit it."""

from __future__ import annotations

from pathlib import Path

import pytest

from marlin_ckpt.operations import memory


@pytest.fixture
def written(tmp_path: Path):
    """Writes files as the kernel shows them."""

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return write


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/a/b\n", {"a/memory.max": "500\n", "a/b/memory.max": "max\n"}, 500),
        ("0::/a/b\n", {"a/memory.max": "500\n", "a/b/memory.max": "300\n"}, 300),
        ("0::/a\n", {"memory.max": "400\n"}, 400),
        ("4:cpu,memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "200\n"}, 200),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": f"{(1 << 63) - 4096}\n"}, None),
        ("0::/a\n", {}, None),
        (None, {"memory.max": "100\n"}, None),
    ],
)
def test_the_limit_is_the_least_of_the_groups_that_a_process_is_in(tmp_path, written, own, files, limit):
    written(files if own is None else {**files, "own": own})
    assert memory.limit_bytes(1000, str(tmp_path), str(tmp_path / "own")) == limit


VERSION_2 = {"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": "anon 5\ninactive_file 300\n"}
VERSION_1 = {
    "memory.limit_in_bytes": "1000\n",
    "memory.usage_in_bytes": "950\n",
    "memory.stat": "inactive_file 1\ntotal_inactive_file 250\n",
}


@pytest.mark.parametrize(
    ("own", "folder", "files", "available"),
    [
        ("0::/\n", "", VERSION_2, 400),
        ("0::/a/b\n", "a/", VERSION_2, 400),
        ("4:memory:/a\n", "memory/a/", VERSION_1, 300),
        ("0::/\n", "", {**VERSION_2, "memory.current": "2000\n"}, 0),
        ("0::/\n", "", {**VERSION_2, "memory.max": "max\n"}, 2048),
        ("0::/\n", "", {**VERSION_2, "memory.stat": "anon 5\n"}, 2048),
        ("", "", VERSION_2, 2048),
    ],
)
def test_what_is_available_is_the_least_of_the_machine_and_of_its_groups_with_what_they_cache(
    tmp_path, written, own, folder, files, available
):
    written({folder + name: text for name, text in files.items()})
    written({"own": own, "machine": "MemTotal: 9 kB\nMemAvailable:  2 kB\nHugePages_Total: 0\n"})
    paths = str(tmp_path), str(tmp_path / "own"), str(tmp_path / "machine")
    assert memory.available_bytes(*paths) == available


def test_nothing_is_known_where_the_system_does_not_say(tmp_path):
    nowhere = str(tmp_path / "nowhere")
    assert memory.available_bytes(nowhere, nowhere, nowhere) is None
    assert memory.limit_bytes(1000, nowhere, nowhere) is None


def test_this_machine_says_what_is_available():
    assert memory.available_bytes() > 0
