"""`load(path, into=...)`: any structure of live objects, arranged as the file has their states."""

from __future__ import annotations

import collections

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import marlin_ckpt
from marlin_ckpt import ArgumentsError, Checkpoint, StateMismatchError
from marlin_ckpt.cli.main import main
from marlin_ckpt.formats.torch.writer import write_file
from marlin_ckpt.loading.arranging import merged
from tests.support.oracle import MANIFEST
from tests.support.restored import copied, net, same, trained

Pair = collections.namedtuple("Pair", ["model", "optimizer"])  # noqa: PYI024 - the kind that users make


class Tied(torch.nn.Module):
    """Two layers with one weight, of which safetensors files hold one name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
        self.last.weight = self.first.weight


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.pt"


def test_modules_optimizers_and_schedulers_are_filled_in_place_and_stand_in_the_result(path):
    module = net()
    optimizer = trained(module)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    optimizer.step()
    scheduler.step()
    state = {"nets": [module.state_dict()], "optimizer": optimizer.state_dict(), "epoch": 3, "rest": {"a": 1}}
    torch.save({**state, "scheduler": scheduler.state_dict()}, path)
    other = net()
    moments = trained(other, 0)
    steps = torch.optim.lr_scheduler.StepLR(moments, 2)
    into = {"nets": [other], "optimizer": moments, "scheduler": steps, "epoch": 0}
    found = marlin_ckpt.load(path, into=into)
    assert list(found) == [*state, "scheduler"]
    assert (found["nets"][0], found["optimizer"], found["scheduler"]) == (other, moments, steps)
    assert (found["epoch"], found["rest"], into["epoch"]) == (3, {"a": 1}, 0)
    assert same(dict(other.state_dict()), dict(module.state_dict()))
    assert same(moments.state_dict(), optimizer.state_dict())
    assert steps.last_epoch == 1


def test_the_bytes_of_a_file_of_ours_go_straight_into_the_live_tensors(path):
    module, live = net(), net()
    write_file(path, {"model": module.state_dict()}, MANIFEST)
    before = {name: one.data_ptr() for name, one in live.state_dict().items()}
    marlin_ckpt.load(path, into={"model": live})
    assert {name: one.data_ptr() for name, one in live.state_dict().items()} == before
    assert same(dict(live.state_dict()), dict(module.state_dict()))


def test_a_live_tensor_stays_itself_and_is_filled(path):
    torch.save((torch.ones(3), [torch.zeros(2)]), path)
    live = torch.zeros(3)
    found = marlin_ckpt.load(path, into=(live, [None]))
    assert found[0] is live
    assert same(list(found), [torch.ones(3), [torch.zeros(2)]])


def test_what_was_saved_keeps_its_types_around_the_live_objects():
    saved = collections.OrderedDict(pair=Pair({"w": 1}, 2), rest=[3])
    module = net()
    found = merged(saved, {"pair": (module, None)})
    assert found == collections.OrderedDict(pair=Pair(module, 2), rest=[3])
    assert type(found) is collections.OrderedDict
    assert type(found["pair"]) is Pair
    assert saved["pair"].model == {"w": 1}


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_a_bare_state_dict_loads_into_a_module(tmp_path, form):
    module, live = net(), net()
    path = tmp_path / f"a.{form}"
    (safetensors.torch.save_file if form == "safetensors" else torch.save)(module.state_dict(), path)
    assert marlin_ckpt.load(path, into=live) is live
    assert same(dict(live.state_dict()), dict(module.state_dict()))


@pytest.mark.parametrize("module", [net, Tied], ids=["plain", "tied"])
@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_what_export_wrote_loads_into_a_module(tmp_path, form, module):
    saved, live = module(), module()
    write_file(tmp_path / "a.pt", Checkpoint(saved.state_dict()).payload(), MANIFEST)
    assert main(["export", str(tmp_path / "a.pt"), "--output", str(tmp_path / f"b.{form}")]) == 0
    marlin_ckpt.load(tmp_path / f"b.{form}", into=live)
    assert same(dict(live.state_dict()), dict(saved.state_dict()))


def test_names_that_safetensors_left_out_load_into_a_module_that_is_not_tied(tmp_path):
    saved, live = Tied(), Tied()
    live.last.weight = torch.nn.Parameter(torch.zeros(3, 3))
    safetensors.torch.save_model(saved, str(tmp_path / "a.safetensors"))
    marlin_ckpt.load(tmp_path / "a.safetensors", into=live)
    assert same(dict(live.state_dict()), dict(saved.state_dict()))
    assert live.last.weight is not live.first.weight


def test_a_tied_name_that_is_nowhere_in_the_file_is_found_by_the_live_module(tmp_path):
    saved, live = Tied(), Tied()
    state = {name: one for name, one in saved.state_dict().items() if name != "last.weight"}
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    marlin_ckpt.load(tmp_path / "a.safetensors", into=live)
    assert same(dict(live.state_dict()), dict(saved.state_dict()))


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (lambda state: {"model": state, "epoch": 1}, 'into={"model": module}'),
        (lambda state: {"state_dict": state, "optimizer_states": []}, 'into={"state_dict": module}'),
        (
            lambda state: Checkpoint({"net": state}).payload(),
            'into={"module_interface_state": {"net": module}}',
        ),
        (lambda state: {"ema": state, "model": state}, 'into={"ema": module}, or into={"model": module}'),
        (lambda state: {"model": state, "other": {"x": torch.ones(1)}}, 'into={"model": module}'),
        (lambda state: {"epoch": 1}, "no state of a module is in it"),
    ],
)
@pytest.mark.parametrize("bare", [net, lambda: torch.nn.BatchNorm1d(3)], ids=["plain", "one that judges"])
def test_a_bare_module_is_not_filled_by_guess_and_the_hint_is_what_to_type(path, place, expected, bare):
    module = bare()
    before = copied(dict(module.state_dict()))
    torch.save(place(bare().state_dict()), path)
    with pytest.raises(StateMismatchError) as caught:
        marlin_ckpt.load(path, into=module)
    assert caught.value.hint.endswith(expected)
    assert same(dict(module.state_dict()), before)


def test_the_hint_for_a_bare_optimizer_is_what_to_type(path):
    optimizer = trained(net())
    torch.save({"optimizer": optimizer.state_dict()}, path)
    with pytest.raises(StateMismatchError) as caught:
        marlin_ckpt.load(path, into=optimizer)
    assert caught.value.hint.endswith('into={"optimizer": optimizer}')


def test_the_hint_for_a_bare_state_and_a_dict_is_the_module_itself(path):
    torch.save(net().state_dict(), path)
    with pytest.raises(StateMismatchError, match="model is missing") as caught:
        marlin_ckpt.load(path, into={"model": net()})
    assert "into=module" in caught.value.hint


def test_the_hint_for_a_missing_key_is_what_the_file_has(path):
    torch.save({"net": net().state_dict(), "epoch": 1}, path)
    with pytest.raises(StateMismatchError, match="model is missing") as caught:
        marlin_ckpt.load(path, into={"model": net()})
    assert caught.value.hint == "the file has 'net', 'epoch'"


def test_the_hint_for_a_prefix_strips_it_and_stripped_it_loads(path):
    module, live = net(), net()
    wrapped = torch.nn.ModuleDict({"module": module})
    torch.save({"model": wrapped.state_dict()}, path)
    with pytest.raises(StateMismatchError, match=r"begin with the prefix 'module\.") as caught:
        marlin_ckpt.load(path, into={"model": live})
    assert "strip_prefix='module.'" in caught.value.hint
    marlin_ckpt.load(path, into={"model": live}, strip_prefix="module.")
    assert same(dict(live.state_dict()), dict(module.state_dict()))


def test_a_prefix_is_stripped_of_the_versions_of_modules_too(path):
    module = torch.nn.ModuleDict({"module": torch.nn.BatchNorm1d(3)})
    state = module.state_dict()
    torch.save(state, path)
    live, seen = torch.nn.BatchNorm1d(3), []
    live._register_load_state_dict_pre_hook(lambda state, prefix, metadata, *_: seen.append(metadata))
    marlin_ckpt.load(path, into=live, strip_prefix="module.")
    assert seen == [{"version": 2}]


def test_a_prefix_that_no_module_has_in_the_file_is_an_error(path):
    torch.save({"model": net().state_dict(), "module.x": 1}, path)
    with pytest.raises(StateMismatchError, match=r"no name of a module begins with 'module\."):
        marlin_ckpt.load(path, into={"model": net()}, strip_prefix="module.")


@pytest.mark.parametrize("what", ["module", "optimizer", "scheduler", "tensor"])
def test_none_in_the_place_of_a_state_is_refused_before_anything_changes(path, what):
    first, live = net(), net()
    objects = {"module": net(), "optimizer": trained(net()), "tensor": torch.ones(1)}
    objects["scheduler"] = torch.optim.lr_scheduler.StepLR(objects["optimizer"], 2)
    torch.save({"first": first.state_dict(), "b": None}, path)
    before = copied(dict(live.state_dict()))
    with pytest.raises(StateMismatchError, match=r"b is None in the file|b is no state"):
        marlin_ckpt.load(path, into={"first": live, "b": objects[what]})
    assert same(dict(live.state_dict()), before)


@pytest.mark.parametrize("into", [3, "model", object(), Checkpoint(None)])
def test_what_nothing_can_be_loaded_into_is_an_error_of_the_argument(path, into):
    torch.save({}, path)
    with pytest.raises(ArgumentsError, match="into: expected"):
        marlin_ckpt.load(path, into=into)


def test_an_object_that_takes_no_state_is_told_of_and_a_value_of_the_same_kind_is_not(path, caplog):
    torch.save({"model": {"a": 1}, "epoch": 4}, path)
    assert marlin_ckpt.load(path, into={"model": object(), "epoch": 0}) == {"model": {"a": 1}, "epoch": 4}
    assert "cannot be restored in place" in caplog.text or "Not restored" in caplog.text
    assert "epoch" not in caplog.text


def test_what_into_does_not_name_goes_where_map_location_says(path):
    module, live = net(), net()
    torch.save({"model": module.state_dict(), "rest": torch.ones(2)}, path)
    found = marlin_ckpt.load(path, into={"model": live}, map_location=lambda storage, _: storage)
    assert same(dict(live.state_dict()), dict(module.state_dict()))
    assert same(found["rest"], torch.ones(2))


_KINDS = st.sampled_from([torch.float32, torch.int64, torch.bool])
_LEAVES = _KINDS.map(lambda kind: torch.ones(2, 3).to(kind))
_STRUCTURES = st.recursive(
    _LEAVES | st.integers() | st.none() | st.text(max_size=3) | st.builds(lambda: torch.nn.Linear(2, 2)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def _saved(live):
    if isinstance(live, dict):
        return {key: _saved(part) for key, part in live.items()}
    if isinstance(live, list):
        return [*map(_saved, live)]
    return live.state_dict() if isinstance(live, torch.nn.Module) else live


def _emptied(live):
    if isinstance(live, dict):
        return {key: _emptied(part) for key, part in live.items()}
    if isinstance(live, list):
        return [*map(_emptied, live)]
    if isinstance(live, torch.nn.Module):
        return torch.nn.Linear(2, 2)
    return torch.zeros_like(live) if isinstance(live, torch.Tensor) else type(live)()


def test_any_structure_comes_back_into_objects_like_those_that_were_saved(cases, directory):
    path = f"{directory}/a.pt"

    @settings(max_examples=cases(40, 2000))
    @given(live=_STRUCTURES.filter(lambda one: isinstance(one, (dict, list))))
    def check(live) -> None:
        marlin_ckpt.save(live, path)
        assert same(_saved(marlin_ckpt.load(path, into=_emptied(live))), _saved(live))

    check()


@pytest.mark.parametrize("spoil", [torch.Tensor.to_sparse, lambda one: one.to("meta")])
def test_what_an_optimizer_cannot_step_with_is_refused_before_the_module_changes(path, spoil):
    module = net()
    optimizer = trained(module)
    state = copied({"module": module.state_dict(), "optimizer": optimizer.state_dict()})
    state["optimizer"]["state"][0]["exp_avg"] = spoil(state["optimizer"]["state"][0]["exp_avg"])
    before = copied(module.state_dict())
    torch.save(
        {name: (one if name == "optimizer" else net().state_dict()) for name, one in state.items()}, path
    )
    with pytest.raises(
        StateMismatchError, match=r"optimizer\.state\[0\]\.exp_avg (is a tensor of|has no values)"
    ):
        marlin_ckpt.load(path, into={"module": module, "optimizer": optimizer})
    assert same(module.state_dict(), before)


def test_a_dtype_that_torch_cannot_convert_is_refused_before_anything_changes(path):
    torch.save({"a": torch.zeros(2, dtype=torch.float4_e2m1fn_x2), "b": torch.ones(2)}, path)
    live = {"a": torch.zeros(2), "b": torch.zeros(2)}
    with pytest.raises(StateMismatchError, match=r"a is torch\.float4_e2m1fn_x2 in the file"):
        marlin_ckpt.load(path, into=live)
    assert live["b"].tolist() == [0, 0]
