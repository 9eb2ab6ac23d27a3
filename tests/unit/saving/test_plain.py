"""Values that `weights_only` loading refuses: made plain where that loses nothing, told of where it would."""

# ruff: noqa: NPY002 - the legacy generator is what people checkpoint
from __future__ import annotations

import datetime
import decimal
import logging
import random
import uuid
from collections import Counter, defaultdict, deque
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from marlin_ckpt import Checkpoint, UnsafeCheckpointError
from marlin_ckpt.saving.plain import plain
from tests.support.async_runs import checkpointer


class Point(NamedTuple):
    x: int
    y: int


@pytest.fixture
def round_trip(make_checkpointer, caplog):
    """Saves a value, asks that nothing be warned of, and loads it with `weights_only`."""

    def go(value: Any) -> Any:
        checkpointer = make_checkpointer()
        checkpointer.save(Checkpoint({"value": value}, {}, {}), 1)
        assert caplog.messages == []
        return checkpointer.load().module_interface_state["value"]

    return go


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.1), 0.1),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.float16(0.1), float(np.float16(0.1))),
        (np.int8(-128), -128),
        (np.int64(2**63 - 1), 2**63 - 1),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.complex64(1 + 2j), 1 + 2j),
        (np.str_("caf\xe9"), "caf\xe9"),
        (np.bytes_(b"a"), b"a"),
        (np.float64("inf"), float("inf")),
        (Path("a") / "b", "a/b"),
        (PurePosixPath("/x"), "/x"),
        (PureWindowsPath("c:/x"), "c:\\x"),
        (datetime.date(2026, 11, 23), "2026-11-23"),
        (datetime.datetime(2026, 11, 23, 1, 2, 3, 4), "2026-11-23T01:02:03.000004"),  # noqa: DTZ001 - naive on purpose
        (datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC), "2026-11-23T00:00:00+00:00"),
        (datetime.time(1, 2, 3), "01:02:03"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_scalar_path_or_date_comes_back_as_its_plain_equal(round_trip, value: object, expected: object):
    loaded = round_trip([value, {value: value}])
    assert loaded == [expected, {expected: expected}]
    assert {type(part) for part in (loaded[0], *loaded[1], *loaded[1].values())} == {type(expected)}


def test_a_not_a_number_of_numpys_comes_back_as_one(round_trip):
    loaded = round_trip(np.float32("nan"))
    assert type(loaded) is float
    assert loaded != loaded  # noqa: PLR0124 - this is what a NaN is


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=dtype).reshape(2, 3)
        for dtype in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "c8", "c16")
    ]
    + [
        np.array([True, False]),
        np.array(7.5),
        np.empty((0, 3)),
        np.arange(6.0).reshape(2, 3).T,
        np.arange(6.0)[::-1],
        np.arange(6, dtype=">i4"),
        np.broadcast_to(np.arange(3.0), (2, 3)),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}{array.strides}",
)
def test_an_array_comes_back_as_a_tensor_of_the_same_values_and_dtype(round_trip, array: np.ndarray):
    loaded = round_trip(array)
    assert type(loaded) is torch.Tensor
    assert loaded.numpy().dtype == array.dtype.newbyteorder("=")
    assert loaded.shape == array.shape
    assert np.array_equal(loaded.numpy(), array)


def test_an_array_is_saved_from_its_own_memory():
    array = np.zeros(1000)
    tensor = plain({"state": [array]})["state"][0]
    array += 1
    assert tensor.sum() == 1000


def test_what_an_array_was_when_an_asynchronous_save_was_asked_for_is_in_the_file(tmp_path):
    array = np.zeros(1 << 20)
    with checkpointer(tmp_path) as own:
        own.save(Checkpoint({"array": array}), 0)
        array += 1
    assert torch.load(tmp_path / "model_0.pt")["module_interface_state"]["array"].sum() == 0


def test_arrays_that_are_views_of_one_memory_come_back_each_with_its_values(round_trip):
    numbers = np.arange(6, dtype=np.float32)
    tensor = torch.arange(3.0)
    views = [numbers, numbers.view(np.int32), numbers[2:], tensor, tensor.numpy().view(np.int32)]
    loaded = round_trip(views)
    assert all(np.array_equal(one.numpy(), np.asarray(view)) for one, view in zip(loaded, views, strict=True))


@pytest.mark.parametrize("is_tensor_first", [True, False])
def test_a_tensor_and_an_array_of_another_dtype_in_its_memory_come_back_each_with_its_values(
    round_trip, is_tensor_first
):
    numbers = np.arange(6, dtype=np.float32)
    views = [torch.from_numpy(numbers)[1:], numbers.view(np.int32)]
    views = views if is_tensor_first else views[::-1]
    loaded = round_trip(views)
    assert all(np.array_equal(one.numpy(), np.asarray(view)) for one, view in zip(loaded, views, strict=True))


def test_the_legacy_state_of_numpys_generator_continues_where_it_was(round_trip):
    state = np.random.get_state()
    try:
        np.random.seed(7)
        np.random.standard_normal(3)  # leaves a cached gaussian, which is part of the state
        loaded = round_trip(np.random.get_state())
        expected = np.random.standard_normal(5)
        np.random.seed(0)
        np.random.set_state(loaded)
        assert np.array_equal(np.random.standard_normal(5), expected)
    finally:
        np.random.set_state(state)


@pytest.mark.parametrize("kind", ["PCG64", "MT19937", "SFC64"])
def test_the_state_of_numpys_newer_generators_continues_where_it_was(round_trip, kind: str):
    generator = np.random.Generator(getattr(np.random, kind)(7))
    generator.random(3)
    loaded = round_trip(generator.bit_generator.state)
    expected = generator.random(5)
    generator.random(9)
    generator.bit_generator.state = loaded
    assert np.array_equal(generator.random(5), expected)


def test_the_state_of_philox_continues_once_its_tensors_are_arrays_again(round_trip):
    # Philox reads its words one by one, and a tensor does not give an item above 2^63.
    generator = np.random.Generator(np.random.Philox(7))
    generator.random(3)
    loaded = round_trip(generator.bit_generator.state)
    loaded["state"] = {name: words.numpy() for name, words in loaded["state"].items()}
    loaded["buffer"] = loaded["buffer"].numpy()
    expected = generator.random(5)
    generator.bit_generator.state = loaded
    assert np.array_equal(generator.random(5), expected)


def test_the_states_of_pythons_and_torchs_generators_continue_where_they_were(round_trip):
    generator, torch_generator = random.Random(7), torch.Generator().manual_seed(7)
    loaded = round_trip({"python": generator.getstate(), "torch": torch_generator.get_state()})
    expected = [generator.random(), torch.rand(3, generator=torch_generator)]
    generator.seed(0)
    generator.setstate(loaded["python"])
    torch_generator.set_state(loaded["torch"])
    assert generator.random() == expected[0]
    assert torch.equal(torch.rand(3, generator=torch_generator), expected[1])


# What some release of torch takes for safe need not be warned of: the rule is that one of the two holds.
@pytest.mark.parametrize(
    "value",
    [
        np.longdouble("0.1"),
        np.datetime64("2026-11-23"),
        np.timedelta64(1, "s"),
        np.array(["a"], dtype=object),
        np.array(["a", "b"]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.ma.masked_array([1, 2], mask=[0, 1]),
        np.dtype("f4"),
        np.array([1], dtype=np.longdouble),
        defaultdict(list, a=[1]),
        Counter("aab"),
        deque([1, 2]),
        Point(1, 2),
        decimal.Decimal("0.1"),
        uuid.UUID(int=1),
        datetime.timedelta(seconds=1),
        frozenset({1}),
        {1, 2},
        range(3),
        slice(1, 2),
        b"",
        b"a",
        bytearray(b"a"),
        1 + 2j,
        Ellipsis,
        NotImplemented,
        2**3000,
        torch.device("cpu"),
        torch.Size([1]),
        torch.float32,
        torch.strided,
        logging.WARNING,
        int,
        len,
    ],
    ids=lambda value: f"{type(value).__name__} {value!r}"[:40].replace("\n", " "),
)
def test_what_was_saved_without_a_warning_loads_with_weights_only(make_checkpointer, caplog, value: object):
    checkpointer = make_checkpointer()
    checkpointer.save(Checkpoint({"value": value}, {}, {}), 1)
    if caplog.messages:
        assert len(caplog.messages) == 1
        with pytest.raises(UnsafeCheckpointError) as caught:
            checkpointer.load()
        assert all(name in caplog.text for name in caught.value.names)
        checkpointer.args.weights_only = False
    loaded = checkpointer.load().module_interface_state["value"]
    assert type(loaded) is type(value)
    assert np.all(loaded == value)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (np.longdouble("0.1"), "numpy._core.multiarray.scalar"),
        (np.array(["a"], dtype=object), "numpy._core.multiarray._reconstruct"),
        (defaultdict(list), "collections.defaultdict"),
        (Point(1, 2), "Point"),
        (decimal.Decimal(1), "decimal.Decimal"),
    ],
    ids=["longdouble", "object array", "defaultdict", "named tuple", "Decimal"],
)
def test_what_has_no_lossless_plain_form_is_kept_and_told_of_once_with_its_type(
    make_checkpointer, caplog, value: object, name: str
):
    checkpointer = make_checkpointer()
    for index in (1, 2):
        checkpointer.save(Checkpoint({"value": value}, {}, {}), index)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "model_1.pt will need weights_only: false to load" in caplog.text
    assert name in caplog.text


def test_what_stands_inside_of_kept_containers_is_not_told_of_twice(make_checkpointer, caplog):
    checkpointer = make_checkpointer()
    checkpointer.save(Checkpoint({"a": decimal.Decimal(1), "b": [uuid.UUID(int=1), Point(1, 2)]}, {}, {}), 1)
    assert len(caplog.records) == 1
    assert [name for name in ("decimal.Decimal", "uuid.UUID", "Point") if name not in caplog.text] == []
