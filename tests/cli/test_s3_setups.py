"""What a command says where boto3 cannot be set up to reach a store."""

from __future__ import annotations

import re

import pytest

from marlin_ckpt.storage.s3 import client


@pytest.mark.parametrize(
    ("name", "value", "why", "hint"),
    [
        ("AWS_PROFILE", "nobody", r"profile \(nobody\) could not be found", "~/.aws/config"),
        ("AWS_ENDPOINT_URL", "minio.example:9000", "cannot be set up", "endpoint"),
        ("AWS_ENDPOINT_URL", "http://user:pa55word@ho st", "cannot be set up", "endpoint"),
        ("AWS_CONFIG_FILE", "{broken}", "nable to parse config file", "~/.aws/config"),
        ("AWS_DEFAULT_REGION", "no region!", "region", ""),
    ],
)
def test_boto3_that_cannot_be_set_up_says_what_is_wrong(
    run_main, s3, tmp_path, monkeypatch, name, value, why, hint
):
    (tmp_path / "broken").write_text("[default\nregion")
    monkeypatch.setattr(client, "_clients", {})
    monkeypatch.setenv(name, value.replace("{broken}", str(tmp_path / "broken")))
    code, out, err = run_main("list", s3)
    assert (code, re.search(why, err) is not None) == (1, True), err
    assert hint in err
    assert "pa55word" not in out + err
    assert "Traceback" not in err


def test_a_sign_in_that_has_ended_says_to_sign_in_again(run_main, s3, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "_clients", {})
    (tmp_path / "config").write_text(
        "[profile sso]\nsso_start_url = https://x.example\nsso_region = us-east-1\n"
        "sso_account_id = 123456789012\nsso_role_name = r\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_PROFILE", "sso")
    for one in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(one)
    code, _, err = run_main("list", s3)
    assert (code, "no credentials for the store" in err, "aws login" in err) == (1, True, True), err
