"""`diff` prints what differs, harmlessly, or says what is wrong with a file."""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import marlin_ckpt
from marlin_ckpt.cli.main import main
from tests.support.state_files import write_states


@pytest.fixture
def files(tmp_path):
    """Writes states to files, and gives their paths."""
    return functools.partial(write_states, tmp_path)


def test_the_document_of_diff_has_its_keys_in_this_order(files, capsys):
    a, b = files({"l.w": torch.zeros(2), "e": 1}, {"l.w": torch.ones(2), "e": 2, "n": torch.ones(1)})
    assert main(["diff", str(a), str(b), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["paths"] == [str(a), str(b)]
    assert document["counts"] == {"removed": 0, "added": 1, "reshaped": 0, "changed": 1, "same": 0}
    assert document["tensors"][0] == {
        "name": "n", "change": "added", "before": None, "after": {"dtype": "float32", "shape": [1]},
    }  # fmt: skip
    figures = {"relative": "inf", "maximum": 1.0, "cosine": None, "differing": 2, "not_finite": 0}
    assert document["layers"] == [{"name": "l", "tensors": 1, "changed": 1, **figures}]
    assert document["values"] == [{"name": "e", "before": "1", "after": "2"}]
    assert (document["same"], document["states"]) == (False, [None, None])
    assert main(["diff", str(a), str(a), "--json", "--all"]) == 0
    assert [one["change"] for one in json.loads(capsys.readouterr().out)["tensors"]] == ["same"]


def test_diff_prints_each_tensor_only_when_asked(files, capsys):
    a, b = map(
        str,
        files({"l.w": torch.ones(2), "l.b": torch.ones(1)}, {"l.w": torch.ones(2) * 2, "l.b": torch.ones(1)}),
    )
    assert main(["diff", a, b]) == 1
    plain = capsys.readouterr()
    assert [line.split() for line in plain.out.splitlines()] == [
        ["relative", "maximum", "cosine", "differing", "tensors", "layer"],
        ["1", "1", "1.000000", "2", "1", "of", "2", "l"],
    ]
    assert plain.err == "2 tensors: 1 changed, 1 same\n"
    assert main(["diff", a, b, "--tensors", "*.w"]) == 1
    assert "float32 [2]  l.w" in capsys.readouterr().out
    assert main(["diff", a, b, "--all"]) == 1
    assert "same  l.b  float32 [1]" in capsys.readouterr().out


def trained(path: Path, steps: int, *, is_named: bool, save: Callable[..., object] = torch.save) -> str:
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 2)
    given = head.named_parameters() if is_named else head.parameters()
    optimizer = torch.optim.SGD([{"params": list(given)}], momentum=0.9)
    for _ in range(steps):
        head(torch.ones(1, 4)).sum().backward()
        optimizer.step()
    states = {"head": head.state_dict(), "optimizers": [optimizer.state_dict()]}
    save(states if save is torch.save else {"head": head, "optimizers": [optimizer]}, str(path))
    return str(path)


@pytest.mark.parametrize(
    ("is_named", "save", "shown"),
    [
        (True, torch.save, {"optimizers[0].state.0 (weight)", "optimizers[0].state.1 (bias)"}),
        (
            False,
            marlin_ckpt.save,
            {"optimizers[0].state.0 (head.weight)", "optimizers[0].state.1 (head.bias)"},
        ),
        (False, torch.save, {"optimizers[0].state.0", "optimizers[0].state.1"}),
    ],
)
def test_what_an_optimizer_keeps_is_shown_with_the_name_of_the_parameter_where_a_file_has_it(
    tmp_path, capsys, is_named, save, shown
):
    a, b = (trained(tmp_path / f"m_{steps}.pt", steps, is_named=is_named, save=save) for steps in (1, 2))
    assert main(["diff", a, b]) == 1
    layers = {line.split(maxsplit=7)[-1] for line in capsys.readouterr().out.splitlines()}
    assert {one for one in layers if one.startswith("optimizers[0].state")} == shown
    assert main(["diff", a, b, "--state", "optimizers[0]", "--all"]) == 1
    first = min(shown).removeprefix("optimizers[0].").partition(" ")
    assert f" {first[0]}.momentum_buffer{''.join(first[1:])}\n" in capsys.readouterr().out


def test_a_parameter_that_two_files_name_differently_is_shown_by_its_number(files, capsys):
    def state(name: str, value: float) -> dict[str, object]:
        groups = [{"params": [0, 1], "param_names": [name, "same\x1b"]}]
        return {
            "o": {
                "state": {0: {"m": torch.full((2,), value)}, 1: {"m": torch.full((1,), value)}},
                "param_groups": groups,
            }
        }

    a, b = files(state("a", 1.0), state("b", 2.0))
    assert main(["diff", str(a), str(b)]) == 1
    out = capsys.readouterr().out
    assert " o.state.0\n" in out
    assert " o.state.1 (same\\x1b)\n" in out


def test_names_and_values_are_printed_harmlessly(files, capsys):
    a, b = files(
        {"w\x1b[2J": torch.ones(1), "v": "\x1b]0;x\x07"}, {"w\x1b[2J": torch.zeros(1), "v": "\u202e"}
    )
    assert main(["diff", str(a), str(b), "--all"]) == 1
    printed = capsys.readouterr()
    assert all(line.isprintable() for line in (printed.out + printed.err).split("\n"))
    assert "w\\x1b[2J" in printed.out


def test_two_long_texts_are_printed_from_where_they_differ(files, capsys):
    paths = files({"x": "a" * 500 + "b" + "d" * 500}, {"x": "a" * 500 + "c" + "d" * 500})
    assert main(["diff", *map(str, paths)]) == 1
    before, after = capsys.readouterr().out.strip().removeprefix("value  x  ").split(" -> ")
    assert before.startswith("..." + "a" * 30 + "bd")
    assert after.startswith("..." + "a" * 30 + "cd")


@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_file_exits_3_and_names_the_tensor(files, capsys, number):
    paths = files(
        {"fine": torch.zeros(4), "worn": torch.arange(1000.0)},
        {"fine": torch.zeros(4), "worn": torch.arange(1000.0)},
    )
    data = bytearray(paths[number].read_bytes())
    data[data.index(struct.pack("<3f", 7, 8, 9))] ^= 1
    paths[number].write_bytes(data)
    assert main(["diff", *map(str, paths)]) == 3
    printed = capsys.readouterr()
    assert printed.err.startswith("error: the CRC of record ")
    assert "(tensor worn)" in printed.err
    assert str(paths[number]) in printed.err
    assert printed.out == ""


def test_a_damaged_record_that_only_views_look_at_is_found(files, capsys):
    base = torch.arange(1000.0)
    paths = files({"part": base[:10], "across": base[::100]}, {"part": base[:10], "across": base[::100]})
    data = bytearray(paths[0].read_bytes())
    data[data.index(struct.pack("<3f", 507, 508, 509))] ^= 1  # which neither of them views
    paths[0].write_bytes(data)
    assert main(["diff", *map(str, paths)]) == 3
    assert "CRC" in capsys.readouterr().err


def test_files_that_are_missing_or_something_else_have_their_exit_codes(files, tmp_path, capsys):
    (whole,) = files({"w": torch.ones(1)})
    (tmp_path / "notes.txt").write_text("notes")
    assert main(["diff", str(whole), str(tmp_path / "missing.pt")]) == 4
    assert main(["diff", str(whole), str(tmp_path / "notes.txt")]) == 3
    assert main(["diff", str(whole)]) == 2
    assert "Traceback" not in capsys.readouterr().err
