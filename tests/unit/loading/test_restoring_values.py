"""Loads into live objects that would lose values or load nothing: refused before anything is changed."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch

from marlin_ckpt import Checkpoint, StateMismatchError
from tests.support.restored import copied, net, same, saved, trained

FLOAT8 = torch.float8_e4m3fn


class Two(torch.nn.Module):
    """An embedding and a head, which may be one tensor."""

    def __init__(self, *, tied: bool):
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 4)
        self.head = torch.nn.Linear(4, 5, bias=False)
        if tied:
            self.head.weight = self.embedding.weight


def load(make_checkpointer, state: object, live: object) -> None:
    """Saves a state and loads it into a live object beside a tensor that fits."""
    checkpointer = make_checkpointer()
    checkpointer.save(Checkpoint({"a": torch.ones(300), "state": state}), 0)
    fits = torch.zeros(300)
    try:
        checkpointer.load(into=Checkpoint({"a": fits, "state": live}))
    except StateMismatchError:
        assert not fits.any()  # nothing was changed
        raise
    assert fits.all()


def test_a_file_of_two_tensors_is_refused_by_a_model_in_which_both_are_one(make_checkpointer):
    checkpointer, live = make_checkpointer(), Two(tied=True)
    checkpointer.save(Checkpoint({"model": Two(tied=False).state_dict(), "last": torch.ones(3)}), 0)
    before, other = copied(dict(live.state_dict())), torch.zeros(3)
    with pytest.raises(StateMismatchError, match=r"embedding\.weight and .*head\.weight are two in the file"):
        checkpointer.load(into=Checkpoint({"model": live, "last": other}))
    assert same(dict(live.state_dict()), before)
    assert not other.any()


@pytest.mark.parametrize("how", ["tied in the file", "equal in the file", "tied in the file alone"])
def test_tensors_that_are_equal_in_the_file_are_loaded_into_one(make_checkpointer, how):
    checkpointer, module = make_checkpointer(), Two(tied=how != "equal in the file")
    if how == "equal in the file":
        module.head.weight = torch.nn.Parameter(module.embedding.weight.detach().clone())
    weights, _ = saved(checkpointer, module)
    live = Two(tied=how != "tied in the file alone")
    checkpointer.load(into=Checkpoint(live))
    assert same(dict(live.state_dict()), weights)


def test_live_tensors_that_overlap_are_refused_and_parts_of_one_storage_that_do_not_are_loaded(
    make_checkpointer,
):
    whole = torch.zeros(4, 6)
    halves = {"top": torch.ones(2, 6), "bottom": torch.full((2, 6), 2.0)}
    load(make_checkpointer, halves, {"top": whole[:2], "bottom": whole[2:]})
    assert torch.equal(whole, torch.cat([*halves.values()]))
    columns = {"left": torch.full((4,), 3.0), "right": torch.full((4,), 4.0)}
    load(make_checkpointer, columns, {"left": whole[:, 0], "right": whole[:, 1]})
    assert torch.equal(whole[:, :2], torch.tensor([[3.0, 4.0]] * 4))
    before = whole.clone()
    with pytest.raises(StateMismatchError, match="share their memory here"):
        load(
            make_checkpointer,
            {"x": torch.ones(3, 6), "y": torch.zeros(3, 6)},
            {"x": whole[:3], "y": whole[1:]},
        )
    assert torch.equal(whole, before)


def test_views_that_overlap_in_the_file_as_they_do_here_are_loaded(make_checkpointer):
    theirs, ours = torch.arange(24.0).view(4, 6), torch.zeros(4, 6)
    load(make_checkpointer, {"x": theirs, "y": theirs[1:3]}, {"x": ours, "y": ours[1:3]})
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("make", [lambda: torch.nn.Linear(3, 3), net], ids=["plain", "one with BatchNorm"])
def test_a_module_on_the_meta_device_is_refused(make_checkpointer, make):
    with torch.device("meta"):
        live = make()
    with pytest.raises(StateMismatchError, match="meta device") as caught:
        load(make_checkpointer, make().state_dict(), live)
    assert "to_empty" in caught.value.hint


def test_a_module_with_hooks_that_stays_on_the_meta_device_is_no_success(make_checkpointer):
    with torch.device("meta"):
        live = torch.nn.Linear(3, 3)
    live.register_load_state_dict_pre_hook(lambda *_: None)
    checkpointer = make_checkpointer()
    saved(checkpointer, torch.nn.Linear(3, 3))
    with pytest.raises(StateMismatchError, match="meta device"), pytest.warns(UserWarning, match="meta"):
        checkpointer.load(into=Checkpoint(live))


def test_an_optimizer_of_parameters_on_the_meta_device_is_refused(make_checkpointer):
    with torch.device("meta"):
        live = torch.optim.AdamW(torch.nn.Linear(3, 3).parameters())
    with pytest.raises(StateMismatchError, match="meta device"):
        load(make_checkpointer, trained(torch.nn.Linear(3, 3)).state_dict(), live)


def quantized(values: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(values, 0.1, 0, torch.qint8)


def inference_tensor() -> torch.Tensor:
    with torch.inference_mode():
        return torch.zeros(4)


@pytest.mark.parametrize(
    ("state", "live", "words"),
    [
        (torch.tensor([300.0]), torch.zeros(1, dtype=torch.int8), "torch.float32 in the file, torch.int8"),
        (torch.tensor([1.0]), torch.zeros(1, dtype=torch.int64), "torch.float32 in the file, torch.int64"),
        (torch.tensor([1 + 2j]), torch.zeros(1), "torch.complex64 in the file, torch.float32"),
        (torch.tensor([0.5]), torch.zeros(1, dtype=torch.bool), "torch.float32 in the file, torch.bool"),
        (torch.tensor([2]), torch.zeros(1, dtype=torch.bool), "torch.int64 in the file, torch.bool"),
        (torch.ones(1).to(FLOAT8), torch.zeros(1, dtype=torch.int32), "torch.float8_e4m3fn in the file"),
        (torch.tensor([1, 300]), torch.zeros(2, dtype=torch.int8), "integers that torch.int8 does not have"),
        (torch.tensor([-1, 3]), torch.zeros(2, dtype=torch.uint8), "integers that torch.uint8 does not have"),
        (
            torch.tensor([2**63], dtype=torch.uint64),
            torch.zeros(1, dtype=torch.int64),
            "integers that torch.int64 does not have",
        ),
        (torch.ones(4), inference_tensor(), "inference_mode"),
        (torch.ones(4), torch.zeros(1).expand(4), "is expanded here"),
        (torch.ones(3, 3), torch.zeros(5).as_strided((3, 3), (1, 1)), "is expanded here"),
        (torch.ones(4), torch.zeros(4).to_sparse(), "a dense tensor in the file, a tensor of layout"),
        (torch.ones(4).to_sparse(), torch.zeros(4), "a tensor of layout torch.sparse_coo in the file"),
        (
            torch.ones(4),
            quantized(torch.zeros(4)),
            "a dense tensor in the file, a quantized tensor",
        ),
        (torch.ones(4), torch.nn.UninitializedParameter(), "cannot be compared"),
        (7, torch.zeros(4), "is a int in the file, a tensor here"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch's, of quantized tensors
def test_what_would_lose_values_or_cannot_be_written_to_is_refused(make_checkpointer, state, live, words):
    with pytest.raises(StateMismatchError, match="does not fit") as caught:
        load(make_checkpointer, {"x": state}, {"x": live})
    assert words in str(caught.value)
    assert "module_interface_state.state.x" in str(caught.value)


def test_a_dtype_that_would_lose_values_is_refused_in_a_module_that_judges_names_itself(make_checkpointer):
    module, live = net(), net()
    state = {name: tensor.double() for name, tensor in module.state_dict().items()}
    before = copied(dict(live.state_dict()))
    with pytest.raises(StateMismatchError, match=r"num_batches_tracked is torch\.float64 in the file"):
        load(make_checkpointer, state, live)
    assert same(dict(live.state_dict()), before)


@pytest.mark.parametrize(
    ("state", "live"),
    [
        (torch.tensor([True, False]), torch.zeros(2)),
        (torch.tensor([1, 127]), torch.zeros(2, dtype=torch.int8)),
        (torch.tensor([3, 4]), torch.zeros(2, dtype=torch.complex64)),
        (torch.tensor([1.5]), torch.zeros(1, dtype=torch.float64)),
        (torch.ones(4), torch.zeros(8, requires_grad=True)[::2]),
        (torch.ones(4), torch.zeros(8)[4:]),
        (torch.tensor(3.0), torch.zeros(())),
        (torch.ones(0, 3), torch.zeros(0, 3)),
    ],
)
def test_what_loses_no_value_is_converted(make_checkpointer, state, live):
    load(make_checkpointer, {"x": state}, {"x": live})
    assert torch.equal(live.detach(), state.to(live.dtype))


def test_a_load_within_inference_mode_fills_the_tensors_that_were_made_there(make_checkpointer):
    checkpointer = make_checkpointer()
    checkpointer.save(Checkpoint({"x": torch.ones(1000)}), 0)
    with torch.inference_mode():
        live = torch.zeros(1000)
        checkpointer.load(into=Checkpoint({"x": live}))
        assert live.all()


@pytest.mark.parametrize(
    ("values", "dtype", "lost"),
    [
        (torch.tensor([1.0, 7e4, -7e4, float("inf"), float("nan")]), torch.float16, "2 of 5"),
        (torch.tensor([1.0, 1e300], dtype=torch.float64), torch.float32, "1 of 2"),
        (torch.tensor([1.0, 1e38 * 3.4], dtype=torch.float64), torch.bfloat16, "1 of 2"),
        (torch.tensor([1, 70000]), torch.float16, "1 of 2"),
        (torch.tensor([1.0, 1e6, 2e6]), torch.float8_e5m2, "2 of 3"),
        (torch.tensor([1.0, 1e4]), torch.float16, ""),
    ],
)
def test_values_that_become_infinite_are_counted_in_the_log(make_checkpointer, caplog, values, dtype, lost):
    with caplog.at_level(logging.WARNING):
        load(make_checkpointer, {"x": values}, {"x": torch.zeros(len(values)).to(dtype)})
    told = [record.getMessage() for record in caplog.records]
    assert told[0].startswith(f"Converted from {values.dtype} to {dtype}: module_interface_state.state.x: ")
    assert [lost in one and "not finite any more" in one for one in told[1:]] == [True] * bool(lost)


@pytest.mark.parametrize("steps", [0, 1])
def test_moments_that_the_optimizer_will_cast_are_counted_in_the_log(make_checkpointer, caplog, steps):
    checkpointer, module, live = make_checkpointer(), torch.nn.Linear(2, 2).bfloat16(), torch.nn.Linear(2, 2)
    checkpointer.save(Checkpoint(None, {"optimizer": trained(module).state_dict()}), 0)
    checkpointer.load(into=Checkpoint(None, {"optimizer": trained(live, steps)}))
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "Converted from torch.bfloat16 to torch.float32: trainer_state.optimizer.state[0].exp_avg" in told
    assert "and 1 more" in told
