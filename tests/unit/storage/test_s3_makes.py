"""Answers that one server or proxy gives and others do not: of other names, ranges and lengths, or none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.faulty_proxy import Fault, Request, always, once
from tests.support.s3_stores import DATA, opened, read, write

pytestmark = pytest.mark.usefixtures("short_pauses")


_BROKEN = (
    Fault.CUT_DOWN, Fault.CUT_UNSIZED, Fault.OTHER_RANGE, Fault.NO_RANGE, Fault.LOST_ANSWER, Fault.SLOW_DOWN,
)  # fmt: skip


@pytest.mark.parametrize("fault", _BROKEN)
@pytest.mark.parametrize("number", [0, 1], ids=["its end", "its beginning"])
def test_a_read_that_breaks_off_goes_on(store, proxy, fault: Fault, number: int):
    write(store)
    proxy.rule = once("GetObject", fault, number)
    assert read(store) == DATA


@pytest.mark.parametrize("data", [DATA, b"small"], ids=["parts", "small"])
def test_a_commit_of_which_no_answer_ever_comes_is_found_by_a_look(s3: str, proxy, data: bytes):
    proxy.rule = always("PutObject|CompleteMultipartUpload", Fault.LOST_ANSWER)
    with opened(s3, proxy.endpoint, give_up_after="1s") as store:
        write(store, data=data, about="ours")
        assert store.head("model_1.pt").about == "ours"


def test_metadata_is_found_where_a_server_changes_the_case_of_its_names(store, proxy):
    proxy.rule = lambda one: (
        Fault.LOST_ANSWER if one == Request("PUT", "PutObject", one.key, 0) else Fault.CAPITALS
    )
    assert write(store, data=b"small", about="ours").about == "ours"


def test_names_that_no_store_of_ours_has_are_passed_over(store, monkeypatch: pytest.MonkeyPatch):
    write(store, "a/model_1.pt", b"x")
    ask = store._page

    def asked(before: str, delimiter: str, more: dict[str, str]) -> dict[str, Any]:
        page, prefix = ask(before, delimiter, more), store._prefix + before
        (one,) = page.get("Contents", ()) or ask(before, "", more)["Contents"]
        page["Contents"] = [
            *page.get("Contents", ()),
            *({**one, "Key": prefix + key} for key in ("", "a//b", "./b")),
        ]
        page["CommonPrefixes"] = [
            *page.get("CommonPrefixes", ()),
            *({"Prefix": prefix + key} for key in ("/", "./")),
        ]
        return page

    monkeypatch.setattr(store, "_page", asked)
    assert store.list().folders == ("a",)
    assert store.list("a").objects == ("a/model_1.pt",)
    assert [one.name for one in store.items()] == ["a/model_1.pt"]


def test_a_folder_that_is_an_object_too_is_not_among_the_names_in_it(store):
    place = store._key("folder")
    store._client.control.put_object(Bucket=place.bucket, Key=f"{place.key}/", Body=b"")
    write(store, "folder/model_1.pt", b"x")
    assert list(store.names_like("folder/")) == ["folder/model_1.pt"]
