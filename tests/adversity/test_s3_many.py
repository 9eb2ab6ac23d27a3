"""Many checkpoints in a store: how often it is asked, and how much memory that takes."""

from __future__ import annotations

import datetime
import tracemalloc

import pytest
import torch

import marlin_ckpt
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.s3.store import open_store
from tests.support.s3_stores import settings

PAGE = 1000  # names in an answer, at most
NOW = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)


@pytest.mark.usefixtures("short_pauses")
def test_the_newest_of_many_is_found_by_the_listing_alone(s3, proxy, cases):
    count = cases(40, 1000)
    paths.use(s3, settings(proxy.endpoint))
    marlin_ckpt.save({"weight": torch.ones(3)}, f"{s3}/model_0.pt")
    with open_store(s3, settings(proxy.endpoint)) as store:
        for number in range(1, count):
            store._client.control.copy_object(
                Bucket=store._bucket, Key=f"{store._prefix}model_{number}.pt",
                CopySource={"Bucket": store._bucket, "Key": f"{store._prefix}model_0.pt"},
            )  # fmt: skip
    proxy.reset()
    found = marlin_ckpt.get_latest_file(s3, "model", "pt")
    assert str(found).endswith(f"/model_{count - 1}.pt")
    assert proxy.kinds().count("ListObjects") <= 2 * -(-count // PAGE)
    assert len(proxy.kinds()) <= 2 * -(-count // PAGE) + 3


def test_names_beyond_number_are_looked_through_in_little_memory(s3, monkeypatch, cases):
    count = cases(20_000, 100_000)
    with open_store(s3) as store:

        def page(Prefix, ContinuationToken="0", **_):
            start = int(ContinuationToken)
            contents = [
                {"Key": f"{Prefix}model_{number}.pt", "Size": 1, "LastModified": NOW, "ETag": f'"{number}"'}
                for number in range(start, start + PAGE)
            ]
            more = start + PAGE < count
            return {"Contents": contents, "IsTruncated": more, "NextContinuationToken": str(start + PAGE)}

        monkeypatch.setattr(store._client.control, "list_objects_v2", page)
        tracemalloc.start()
        try:
            assert sum(1 for _ in store.items()) == count
            of_items = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            assert len(store.list().objects) == count
            of_names = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert of_items < 4 << 20
    assert of_names < (4 << 20) + 200 * count
