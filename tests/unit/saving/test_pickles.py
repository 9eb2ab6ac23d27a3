"""What is kept of the pickle of a state: all that the next save may change has to be in its file."""

from __future__ import annotations

import copyreg
import gc
import weakref
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marlin_ckpt import Saver, UnsavableStateError
from marlin_ckpt.formats.torch import facts
from marlin_ckpt.formats.torch.pickler import encode
from marlin_ckpt.saving.plain import plain
from marlin_ckpt.saving.writing import pickles
from marlin_ckpt.saving.writing.pickles import About, Pickles
from tests.support.async_runs import Run
from tests.support.async_trainings import OPTIMIZERS, Training, described_file
from tests.support.async_trainings import described as described_checkpoint
from tests.support.changing_states import SCALARS, States, Thing

_ABOUT = About(makes_plain=True, has_statistics=False)
_AS_IS = About(makes_plain=False, has_statistics=False)


@pytest.fixture
def pickled(monkeypatch):
    """Each state that a pickler goes through."""
    inner, states = pickles.encode, []

    def counting(state):
        states.append(state)
        return inner(state)

    monkeypatch.setattr(pickles, "encode", counting)
    return states


def outcome(pickled, state):
    try:
        return pickled(state)
    except UnsavableStateError as error:
        return str(error)


@settings(max_examples=40)
@given(chance=st.randoms(use_true_random=False), about=st.sampled_from([_ABOUT, _AS_IS]))
@pytest.mark.filterwarnings("ignore")
def test_a_pickle_is_the_one_of_a_fresh_save_whatever_has_changed_since_the_last(chance, about):
    states, kept, waiting = States(chance), Pickles(), Pickles()
    state = {"state": states.tree(), "more": states.tree(), "number": 0}
    for number in range(5):
        mine = outcome(lambda one: kept.planned(one, about)[0], state)
        awaited = outcome(lambda one: waiting.encoded(one, about), state)
        fresh = outcome(lambda one: encode(plain(one) if about.makes_plain else one), state)
        assert described(mine) == described(awaited) == described(fresh)
        state["number"] = number
        if number:
            states.change(state)


def described(encoded):
    if isinstance(encoded, str):
        return encoded
    storages = {key: bytes(one.tolist()) for key, one in encoded.storages.items()}
    return encoded.pickle, storages, encoded.is_familiar, encoded.unreadable


def is_fresh(kept, state):
    return described(kept.planned(state, _ABOUT)[0]) == described(encode(state))


_SIX, _COMPLEX = torch.arange(6.0), torch.complex(torch.ones(3), torch.ones(3))
_ONE_FACT = {
    "shape": (_SIX[:3], _SIX[:2]),
    "strides": (_SIX.as_strided((2, 2), (2, 1)), _SIX.as_strided((2, 2), (1, 1))),
    "offset": (_SIX[:3], _SIX[1:4]),
    "length of the storage": (torch.arange(6.0)[:2], torch.arange(7.0)[:2]),
    "dtype": (torch.ones(3), torch.ones(3, dtype=torch.int32)),
    "device": (torch.empty(0), torch.empty(0, device="meta")),
    "gradient": (torch.ones(3), torch.ones(3, requires_grad=True)),
    "type": (torch.ones(3, requires_grad=True), torch.nn.Parameter(torch.ones(3))),
    "sign": (_COMPLEX.imag, _COMPLEX.conj().imag),
    "conjugation": (_COMPLEX, _COMPLEX.conj()),
}


@pytest.fixture(params=["all at once", "column by column"])
def compared(request, monkeypatch):
    """How facts are compared: by torch's guards, or where it has none."""
    if request.param == "column by column":
        monkeypatch.delattr(torch._C._dynamo.guards, "TensorGuards")
    return request.param


@pytest.mark.parametrize("fact", _ONE_FACT)
def test_a_tensor_that_differs_in_one_fact_alone_is_pickled_anew(fact, compared):
    before, after = _ONE_FACT[fact]
    kept, beside = Pickles(), torch.ones(2)
    for _ in range(3):  # the second one finds its like, and from then on they are compared at once
        assert is_fresh(kept, {"one": before, "beside": beside})
    assert is_fresh(kept, {"one": after, "beside": beside})
    assert is_fresh(kept, {"one": before, "beside": beside})


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu")])
def test_in_another_mode_of_torch_a_fact_that_differs_is_seen_and_a_like_state_is_known(
    mode, pickled, compared
):
    one, kept = torch.nn.Parameter(torch.ones(3)), Pickles()
    for _ in range(2):
        kept.planned([one], _ABOUT)
    with mode():
        assert is_fresh(kept, [one])
        assert len(pickled) == 1
        assert is_fresh(kept, [torch.nn.Parameter(torch.ones(3), requires_grad=False)])


def test_all_facts_of_plain_tensors_are_compared_at_once(monkeypatch):
    """Else a save would go through all tensors ten times, and nobody would notice."""
    kept, columns = Pickles(), []
    inner = facts._columns
    monkeypatch.setattr(facts, "_columns", lambda *of: (columns.append(one) or one for one in inner(*of)))
    for _ in range(3):
        columns.clear()
        kept.planned([torch.ones(3), torch.zeros(2, 2)], _ABOUT)
    assert len(columns) == 3


def test_so_are_tensors_that_begin_or_cease_to_share_their_storage():
    one, kept = torch.ones(3), Pickles()
    for state in ([one, one.clone()], [one, one.detach()], [one, one], [one, one.clone()]):
        assert is_fresh(kept, state)


def test_so_is_a_tensor_that_gets_an_attribute(pickled):
    one, kept = torch.ones(3), Pickles()
    kept.planned([one], _ABOUT)
    one.mark = 1
    assert is_fresh(kept, [one])
    assert len(pickled) == 2


def test_a_state_in_which_only_tensors_data_has_changed_is_not_pickled_again(pickled):
    run, kept = Run(), Pickles()
    for _ in range(4):
        run.step()
        assert is_fresh(kept, run.checkpoint().payload())
    assert len(pickled) == 1


def test_nor_is_one_in_which_plain_values_have_changed_too_once_that_was_seen(pickled):
    kept = Pickles()
    for number, value in enumerate(SCALARS[:9]):
        state = {"number": number, "inner": [value, (value, {"value": value})], "tensor": torch.ones(3)}
        assert is_fresh(kept, state)
    assert len(pickled) == 2 + 1  # and once with marks in the places of plain values


def test_a_state_of_which_something_else_grows_costs_no_more_tries_than_three(pickled, monkeypatch):
    made, cut = [], pickles.cut
    monkeypatch.setattr(pickles, "cut", lambda one: made.append(one) or cut(one))
    state, kept = {"losses": [], "tensor": torch.ones(3)}, Pickles()
    for number in range(9):
        state["losses"].append(number)
        assert is_fresh(kept, state)
    assert (len(pickled), len(made)) == (9 + 3, 2 * 3)


def test_a_save_that_waits_keeps_nothing_of_the_first_state_and_pickles_no_third(pickled, monkeypatch):
    outlined, inner = [], pickles.outline
    monkeypatch.setattr(pickles, "outline", lambda state: outlined.append(state) or inner(state))
    run, kept = Run(), Pickles()
    for saves in range(4):
        run.step()
        state = run.checkpoint().payload()
        assert described(kept.encoded(state, _ABOUT)) == described(encode(state))
        assert (len(pickled), len(outlined)) == (min(saves + 1, 2), saves)


def test_nor_does_it_try_for_ever_where_something_else_grows_from_save_to_save(pickled, monkeypatch):
    outlined, inner = [], pickles.outline
    monkeypatch.setattr(pickles, "outline", lambda state: outlined.append(state) or inner(state))
    state, kept = {"losses": [], "tensor": torch.ones(3)}, Pickles()
    tries = []
    for number in range(9):
        state["losses"].append(number)
        assert described(kept.encoded(state, _ABOUT)) == described(encode(state))
        tries.append(len(outlined))
    assert 0 < tries[5] == tries[-1]


def test_templates_are_not_made_of_a_state_that_has_mostly_plain_values(monkeypatch):
    made, kept = [], Pickles()
    monkeypatch.setattr(pickles, "cut", made.append)
    state = {"order": list(range(200_000)), "tensor": torch.ones(3)}
    for number in range(3):
        state["number"] = number
        kept.planned(state, _ABOUT)
    assert not made


def test_no_outline_is_made_of_a_state_whose_last_pickle_was_too_long(monkeypatch, pickled):
    inner, outlined = pickles.outline, []
    monkeypatch.setattr(pickles, "outline", lambda state: outlined.append(state) or inner(state))
    monkeypatch.setattr(pickles, "_LONGEST_BYTES", 5000)
    state, kept = {"text": "a" * 9000, "tensor": torch.ones(3)}, Pickles()
    for saves in range(1, 4):
        kept.planned(state, _ABOUT)
        kept.planned({"tensor": torch.ones(2)}, _ABOUT)
        assert len(outlined) == 1 + saves
    state["text"] = ""
    for _ in range(3):
        assert is_fresh(kept, state)
    assert len(pickled) == 3 + 1 + 2


class Buffered:
    """An object that hands on, once, what it has gathered."""

    def __init__(self) -> None:
        self.gathered: list[int] = []

    def __getstate__(self) -> dict[str, list[int]]:
        gathered, self.gathered = self.gathered, []
        return {"gathered": gathered}


def test_an_object_that_does_something_when_it_is_pickled_does_it_once_a_save():
    one, kept = Buffered(), Pickles()
    for number in range(3):
        one.gathered.append(number)
        encoded, _ = kept.planned({"one": one, "tensor": torch.ones(3)}, _ABOUT)
        wanted = Buffered()
        wanted.gathered.append(number)
        assert encoded.pickle == encode({"one": wanted, "tensor": torch.ones(3)}).pickle


@pytest.mark.parametrize("kind", [torch.nn.Parameter, Thing])
def test_how_a_type_is_pickled_may_be_registered_between_two_saves(kind, monkeypatch):
    state, kept = [kind(torch.ones(3)), torch.ones(3)], Pickles()
    assert is_fresh(kept, state)
    monkeypatch.setitem(copyreg.dispatch_table, kind, lambda _: (list, ((1, 2),)))
    assert is_fresh(kept, state)


def test_a_hook_is_warned_of_in_each_save():
    one, kept = torch.ones(3, requires_grad=True), Pickles()
    kept.planned([one, torch.ones(3)], _ABOUT)
    one.register_hook(lambda _: None)
    for _ in range(2):
        with pytest.warns(UserWarning, match="will not be serialized"):
            kept.planned([one, torch.ones(3)], _ABOUT)


def test_two_states_that_are_saved_in_turn_are_both_known(pickled):
    kept, states = Pickles(), [{"one": torch.ones(3)}, {"one": torch.ones(3), "two": torch.ones(2)}]
    for state in states * 3:
        assert is_fresh(kept, state)
    assert len(pickled) == 2


def test_nothing_of_a_state_is_kept_alive():
    kept, state = Pickles(), OrderedDict(one=torch.nn.Parameter(torch.ones(3)), more=Thing(torch.ones(2)))
    gone = [weakref.ref(one) for one in (state, state["one"], state["more"], state["more"].value)]
    for number in range(4):
        state["number"] = number
        kept.planned(state, _ABOUT)
    del state
    gc.collect()
    assert [one() for one in gone] == [None] * 4


@pytest.mark.parametrize("optimizers", OPTIMIZERS)
def test_each_file_of_a_training_has_what_torch_saves(optimizers, tmp_path, pickled):
    training, saves = Training(optimizers), 6
    with Saver() as saver:
        for number in range(saves):
            training.step()
            checkpoint = training.checkpoint(number)
            wanted = described_checkpoint(checkpoint)
            saver.save(checkpoint.payload(), tmp_path / "one.pt")
            saver.wait()
            assert described_file(tmp_path / "one.pt") == wanted
    assert optimizers == "LBFGS" or len(pickled) < saves  # its history grows
