"""Which checkpoints are kept: what each rule keeps, and what never happens whatever the rules say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt import ArgumentsError, BestArguments, RetentionArguments
from marlin_ckpt.directory.retention.decide import Candidate, decide, together_bytes
from marlin_ckpt.storage.space import Range, Taken

HOUR, DAY = 3600.0, 86400.0
NOW = 20_000 * DAY  # a Friday


def candidate(index: int, *, time_s: float | None = None, size: int = 10, apart: str = "", **metrics: float):
    when = NOW - 1000 + index if time_s is None else time_s
    path = f"d/model_{index}.pt"
    return Candidate(
        path=path, index=index, time_s=when, size_bytes=size, metrics=metrics, run_id="a", apart=apart
    )


def kept(candidates, **rules) -> list[int]:
    decisions = decide(candidates, RetentionArguments(**rules), now_s=NOW)
    return [one.candidate.index for one in decisions if one.keep]


def test_last_keeps_the_greatest_indices():
    assert kept(map(candidate, range(10)), last=3) == [7, 8, 9]


def test_every_keeps_the_multiples_and_the_newest():
    assert kept(map(candidate, range(12)), every=5) == [0, 5, 10, 11]


@pytest.mark.parametrize(("mode", "expected"), [("min", [2, 3, 5]), ("max", [1, 4, 5])])
def test_best_keeps_so_many_of_the_least_or_the_greatest_of_equal_ones_the_newer(mode, expected):
    values = {0: 1.0, 1: 2.0, 2: 0.5, 3: 0.5, 4: 2.0, 5: 1.0}
    files = [candidate(index, loss=value) for index, value in values.items()]
    assert kept(files, best=BestArguments("loss", mode, 2)) == expected
    first = [one for one in kept(files, best=BestArguments("loss", mode, 1)) if one != 5]
    assert first == [expected[1]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_what_is_no_finite_value_is_never_best(value, mode):
    odd = candidate(1) if value is None else candidate(1, loss=value)
    assert kept(
        [candidate(0, loss=5.0), odd, candidate(2, loss=7.0)], best=BestArguments("loss", mode, 3)
    ) == [
        0,
        2,
    ]


def test_several_metrics_are_kept_by_at_once():
    files = [candidate(0, loss=1, accuracy=0.1), candidate(1, loss=2, accuracy=0.9), candidate(2, loss=3)]
    rules = [BestArguments("loss"), BestArguments("accuracy", "max")]
    assert kept([*files, candidate(3)], best=rules) == [0, 1, 3]


def test_within_keeps_what_is_young_enough():
    files = [candidate(index, time_s=NOW - (5 - index) * DAY) for index in range(6)]
    assert kept(files, within="2d") == [3, 4, 5]
    assert kept([candidate(0, time_s=NOW + HOUR), candidate(1, time_s=NOW - HOUR)], within="1min") == [0, 1]


@pytest.mark.parametrize(
    ("rule", "length", "expected"),
    [("hourly", HOUR, [5, 8]), ("daily", DAY, [5, 8]), ("weekly", 7 * DAY, [5, 8])],
)
def test_of_each_of_the_last_periods_that_have_one_the_newest_is_kept(rule, length, expected):
    # Weeks begin on Mondays: day 19,996 is one.
    begin = 19_996 * DAY
    times = [-3.5, -3.2, -3.1, -1.9, -1.5, -1.1, 0.1, 0.2, 0.9]
    files = [candidate(index, time_s=begin + when * length) for index, when in enumerate(times)]
    assert kept(files, **{rule: 2}) == expected


def test_what_exceeds_max_total_goes_the_oldest_first_and_the_best_last():
    files = [candidate(index, loss=abs(index - 2)) for index in range(8)]
    rules = {"last": 4, "best": BestArguments("loss", "min", 3)}
    assert kept(files, **rules) == [1, 2, 3, 4, 5, 6, 7]
    assert kept(files, **rules, max_total=60) == [1, 2, 3, 5, 6, 7]
    assert kept(files, **rules, max_total=40) == [1, 2, 3, 7]
    assert kept(files, **rules, max_total=30) == [2, 3, 7]
    assert kept(files, **rules, max_total=20) == [2, 7]
    assert kept(files, **rules, max_total=1) == [7]
    assert kept(files, max_total="50B") == [3, 4, 5, 6, 7]


def test_what_checkpoints_share_counts_once_for_max_total_until_the_last_of_them_goes():
    shared = [Range((1, False), at, at + 6) for at in (0, 100)]
    files = [
        replace(candidate(index), taken=Taken(4, (shared[index % 2],), elsewhere_bytes=4))
        for index in range(6)
    ]
    assert kept(files, max_total=12 + 24) == [0, 1, 2, 3, 4, 5]
    assert kept(files, max_total=12 + 24 - 1) == [1, 2, 3, 4, 5]
    assert kept(files, max_total=12 + 8) == [4, 5]
    assert kept(files, max_total=12 + 7) == [5]
    assert kept([*files, candidate(6)], max_total=12 + 12 + 10) == [3, 4, 5, 6]


def test_the_reasons_are_all_told():
    files = [candidate(index, loss=float(index)) for index in range(11)]
    rules = RetentionArguments(last=2, every=5, best=BestArguments("loss"), max_total=45)
    told = {one.candidate.index: one.reasons for one in decide(files, rules, now_s=NOW)}
    assert told[0] == ("every 5", "best loss (1 of 1)")
    assert told[10] == ("newest", "last 2", "every 5")
    assert told[9] == ("last 2",)
    assert told[1] == ("no rule keeps it",)
    rules.max_total = 30
    told = {one.candidate.index: one.reasons for one in decide(files, rules, now_s=NOW)}
    assert told[5] == ("over max_total 30", "though every 5")


def test_what_was_written_last_stays_though_others_have_greater_indices():
    files = [candidate(7), candidate(8, time_s=NOW), candidate(9), candidate(10)]
    assert kept(files, last=1) == [8, 10]


def test_what_is_pinned_stays_and_says_why():
    files = [replace(candidate(0), pinned="a link leads to it"), candidate(1), candidate(2)]
    decisions = decide(files, RetentionArguments(last=1, max_total=1), now_s=NOW)
    assert [one.keep for one in decisions] == [True, False, True]
    assert decisions[0].reasons == ("a link leads to it",)


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"last": 0},
        {"every": -1},
        {"within": "7 days"},
        {"within": "0d"},
        {"max_total": "much"},
        {"max_total": 0},
        {"daily": True},
        {"best": []},
        {"best": {"metric": "loss"}},
    ],
)
def test_rules_that_keep_nothing_or_mean_nothing_are_refused(rules):
    with pytest.raises(ArgumentsError):
        RetentionArguments(**rules)


@pytest.mark.parametrize("fields", [{}, {"metric": "a", "mode": "least"}, {"metric": "a", "count": 0}])
def test_a_rule_of_the_best_that_means_nothing_is_refused(fields):
    with pytest.raises(ArgumentsError):
        BestArguments(**fields)


VALUES = st.one_of(st.floats(), st.sampled_from([0.0, 1.0, math.nan, math.inf]))
CANDIDATES = st.lists(
    st.builds(
        lambda index, when, size, metrics, apart, pinned, blocks: Candidate(
            path=f"d/model_{index}.pt",
            index=index,
            time_s=NOW - when,
            size_bytes=size,
            metrics=metrics,
            apart=apart,
            pinned=pinned,
            taken=blocks and Taken(0, tuple(Range((1, False), at, at + 10) for at in blocks), size),
        ),
        st.integers(0, 60),
        st.floats(-DAY, 30 * DAY),
        st.integers(0, 100),
        st.dictionaries(st.sampled_from(["loss", "accuracy"]), VALUES),
        st.sampled_from(["", "", "", "corrupt"]),
        st.sampled_from(["", "", "", "", "load_filename names it"]),
        st.one_of(st.none(), st.sets(st.integers(0, 99), min_size=1, max_size=5)),
    ),
    max_size=40,
    unique_by=lambda one: one.index,
)
COUNTS = st.integers(1, 5)
BEST = st.builds(
    BestArguments, st.sampled_from(["loss", "accuracy", "other"]), st.sampled_from(["min", "max"]), COUNTS
)
KEEPING = {
    "last": COUNTS,
    "every": st.integers(1, 20),
    "best": st.lists(BEST, min_size=1, max_size=3),
    "within": st.sampled_from(["1h", "1d", "2w"]),
    "hourly": COUNTS,
    "daily": COUNTS,
    "weekly": COUNTS,
}
RULES = st.fixed_dictionaries({}, optional=KEEPING).filter(bool)
LIMIT = st.one_of(st.none(), st.integers(1, 500))


@given(CANDIDATES, RULES, LIMIT)
def test_kept_and_removed_are_a_partition_and_each_says_why(candidates, rules, limit):
    decisions = decide(candidates, RetentionArguments(**rules, max_total=limit), now_s=NOW)
    assert sorted(one.candidate.path for one in decisions) == sorted(one.path for one in candidates)
    assert all(one.reasons and all(one.reasons) for one in decisions)
    assert [one.candidate.index for one in decisions] == sorted(one.index for one in candidates)


@given(CANDIDATES, RULES, LIMIT)
def test_the_newest_that_counts_and_what_does_not_count_is_never_removed(candidates, rules, limit):
    decisions = decide(candidates, RetentionArguments(**rules, max_total=limit), now_s=NOW)
    removed = {one.candidate.index for one in decisions if not one.keep}
    counted = [one for one in candidates if not one.apart]
    assert removed <= {one.index for one in counted if not one.pinned}
    if counted:
        assert max(one.index for one in counted) not in removed
        assert max(counted, key=lambda one: (one.time_s, one.index)).index not in removed


@given(CANDIDATES, RULES, LIMIT)
def test_what_is_corrupt_takes_nobodys_place(candidates, rules, limit):
    whole = decide(candidates, RetentionArguments(**rules, max_total=limit), now_s=NOW)
    counted = [one for one in candidates if not one.apart]
    alone = decide(counted, RetentionArguments(**rules, max_total=limit), now_s=NOW)
    assert [one for one in whole if not one.candidate.apart] == alone


@given(CANDIDATES, RULES, LIMIT)
def test_applying_twice_is_applying_once(candidates, rules, limit):
    arguments = RetentionArguments(**rules, max_total=limit)
    left = [one.candidate for one in decide(candidates, arguments, now_s=NOW) if one.keep]
    assert all(one.keep for one in decide(left, arguments, now_s=NOW))


@given(CANDIDATES, RULES, st.sampled_from(sorted(KEEPING)), st.data())
def test_one_more_rule_never_removes_more(candidates, rules, name, data):
    more = {**rules, name: data.draw(KEEPING[name])}
    if name in rules:
        more[name] = rules[name]
        if name == "best":
            more[name] = [*rules[name], data.draw(BEST)]
    fewer = decide(candidates, RetentionArguments(**rules), now_s=NOW)
    removed = {one.candidate.path for one in fewer if not one.keep}
    now_removed = {
        one.candidate.path
        for one in decide(candidates, RetentionArguments(**more), now_s=NOW)
        if not one.keep
    }
    assert now_removed <= removed


@given(CANDIDATES.flatmap(lambda found: st.tuples(st.just(found), st.permutations(found))), RULES, LIMIT)
def test_the_order_of_the_files_does_not_matter(orders, rules, limit):
    arguments = RetentionArguments(**rules, max_total=limit)
    first, second = (decide(files, arguments, now_s=NOW) for files in orders)
    assert first == second


@given(CANDIDATES, RULES, st.integers(1, 500))
def test_max_total_holds_unless_what_must_stay_exceeds_it(candidates, rules, limit):
    decisions = decide(candidates, RetentionArguments(**rules, max_total=limit), now_s=NOW)
    left = [one for one in decisions if one.keep and not one.candidate.apart]
    total = together_bytes(one.candidate for one in left)
    must = {"newest", "written last", "load_filename names it"}
    assert total <= limit or all(must & set(one.reasons) for one in left)


def test_a_hundred_thousand_files_are_decided_about_alike_however_many_rules_there_are():
    files = [candidate(index, time_s=NOW - index * 60, loss=index % 977) for index in range(100_000)]
    rules = {"last": 3, "every": 1000, "best": BestArguments("loss", "min", 5), "within": "1h", "daily": 7}
    left = kept(files, **rules, hourly=24, weekly=4, max_total="1kB")
    assert len(left) == 100
    assert left[-1] == 99_999
