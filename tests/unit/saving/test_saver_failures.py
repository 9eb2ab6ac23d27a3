"""What the failure of a callback of `Saver` says, and what it leaves counted."""

from __future__ import annotations

import pytest

from marlin_ckpt import Saver, SaveReport
from marlin_ckpt.saving.pace import Pace


class UploadError(Exception):
    """What a user's callback raises: none of ours."""


def upload(_: SaveReport) -> None:
    raise UploadError


def test_an_error_that_on_error_raises_again_says_once_where_it_came_from(tmp_path):
    def again(error: Exception) -> None:
        raise error

    saver = Saver(on_durable=upload, on_error=again)
    saver.save({"a": 1}, tmp_path / "a.pt")
    with pytest.raises(UploadError) as caught:
        saver.close()
    assert len(caught.value.__notes__) == 1
    assert "in upload" in caught.value.__notes__[0]


@pytest.mark.parametrize("is_async", [True, False])
def test_what_a_save_has_cost_is_counted_once_also_where_on_durable_fails(tmp_path, monkeypatch, is_async):
    counted: list[float] = []
    monkeypatch.setattr(Pace, "save_ended", lambda _, stall_s: counted.append(stall_s))

    saver = Saver(asynchronous=is_async, on_durable=upload)
    with pytest.raises(UploadError):
        saver.save({"a": 1}, tmp_path / "a.pt")
        saver.close()
    assert len(counted) == 1
