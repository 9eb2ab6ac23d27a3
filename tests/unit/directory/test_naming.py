"""The grammar of file names."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from marlin_ckpt.naming import FileName, Kind, checkpoint_index, has_extension, indices, parse, parse_any

_characters = st.characters(exclude_characters="/\0", codec=None)
_prefixes = st.text(_characters, min_size=1, max_size=20) | st.sampled_from(
    ["model", "a_1", "_", "x_model", "x_mode", "v1.5", "[red]", "two\nlines", "\udce9", "\u0669"]
)
_extensions = st.text(_characters, min_size=1, max_size=8).filter(lambda text: text[0] != ".")
_names = st.builds(
    FileName, _prefixes, st.integers(min_value=0, max_value=10**30), _extensions, st.sampled_from(list(Kind))
)


@given(_names)
def test_reading_a_written_name_gives_the_same_name_back(name: FileName):
    assert parse(str(name), name.prefix, name.extension) == name


@given(_names)
def test_a_written_name_is_read_back_without_knowing_its_prefix(name: FileName):
    assume(not name.prefix.endswith(("_model", "_mode")))
    assert parse_any(str(name), name.extension) == name


@given(_names, st.text(_characters, max_size=6), st.data())
def test_no_text_is_read_that_is_not_prefix_mark_digits_and_extension(name: FileName, noise: str, data):
    at = data.draw(st.integers(0, len(str(name))))
    text = str(name)[:at] + noise + str(name)[at:]
    read = parse(text, name.prefix, name.extension)
    if read is not None:
        digits = text[: -len(name.extension) - 1].rpartition("_")[2]
        marks = ["_model", "_mode"] if read.kind is Kind.MODEL else [""]
        assert text in {f"{name.prefix}{mark}_{digits}.{name.extension}" for mark in marks}
        assert set(digits) <= set("0123456789")
        assert int(digits) == read.index


def test_the_index_of_a_hundred_thousand_names_is_the_one_they_were_made_from():
    generator = random.Random(0)
    prefixes = ["model", "m", "a_b", "run-7", "gpt2", "model_5"]
    for _ in range(100_000):
        made = FileName(
            generator.choice(prefixes),
            generator.randrange(10 ** generator.randrange(1, 20)),
            generator.choice(["pt", "tar", "tar.gz", "p"]),
            generator.choice(list(Kind)),
        )
        assert parse(str(made), made.prefix, made.extension) == made


@pytest.mark.parametrize(
    "name",
    [
        "model_.pt",
        "model_9",
        "model_9pt",
        "model_9.ppt",
        "model_9.PT",
        "model_9.pt.bak",
        "model_9.pt ",
        "model_9.pt\n",
        "model_9\n.pt",
        "model_ 9.pt",
        "model_+9.pt",
        "model_-9.pt",
        "model_1_000.pt",
        "model_0x9.pt",
        "model_9e3.pt",
        "model_\u0669.pt",
        "model_\uff19.pt",
        "model_\u00b2.pt",
        "model_9\u0669.pt",
        "model__9.pt",
        "model-9.pt",
        "model9.pt",
        "model_epoch_9.pt",
        "model_model_.pt",
        "model_models_9.pt",
        "xmodel_9.pt",
        "Model_9.pt",
        " model_9.pt",
        ".model_9.pt.host.17.0a0b0c0d.marlin-tmp",
        "",
    ],
)
def test_a_name_that_is_not_prefix_underscore_digits_dot_extension_is_none_of_ours(name: str):
    assert parse(name, "model", "pt") is None


@pytest.mark.parametrize("mark", ["model", "mode"])
def test_both_spellings_of_a_model_file_are_read_as_a_model_file(mark: str):
    assert parse(f"model_{mark}_9.pt", "model", "pt") == FileName("model", 9, "pt", Kind.MODEL)
    assert parse_any(f"model_{mark}_9.pt", "pt") == FileName("model", 9, "pt", Kind.MODEL)


def test_a_model_file_is_written_with_model_in_full():
    assert str(FileName("net", 3, "pt", Kind.MODEL)) == "net_model_3.pt"


def test_leading_zeros_do_not_change_the_index():
    assert parse("model_007.pt", "model", "pt") == FileName("model", 7)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.pt", True),
        ("notes.ppt", False),
        ("keepme.pt.bak", False),
        (".pt", False),
        ("pt", False),
        ("apt", False),
        ("a.PT", False),
        ("a.pt\n", False),
        ("..pt", True),
    ],
)
def test_an_extension_is_compared_with_its_dot_and_as_a_whole(name: str, expected: bool):
    assert has_extension(name, "pt") is expected


_PIECES = st.lists(
    st.sampled_from(["a", "_", "3", "07", ".pt", "\u00b2", "\u0663", "-", "a_3.pt"]), max_size=4
)


@given(st.lists(_PIECES.map("".join), max_size=6), st.sampled_from(["", "sub", "a_3"]))
def test_of_names_that_are_read_together_each_is_read_as_alone(names: list[str], folder: str):
    alone = [(name, checkpoint_index(name, "a", "pt")) for name in names]
    whole = [f"{folder}/{name}" if folder else name for name in names]
    expected = [(path, one[1]) for path, one in zip(whole, alone, strict=True) if one[1] is not None]
    assert list(zip(*indices(whole, "a", "pt", folder), strict=True)) == expected
