"""How a store is reached: by proxies, by TLS with a CA of one's own, alike for questions and for data."""

from __future__ import annotations

import pytest

from marlin_ckpt import StorageError
from marlin_ckpt.storage.s3 import client, retrying
from tests.support import relays, s3_servers
from tests.support.s3_stores import opened, read, write

PASSWORD = "pa55word"

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture(autouse=True)
def _reached_by_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says is read when a client is made; that around the tests says nothing."""
    monkeypatch.setattr(client, "_clients", {})
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory):
    return relays.certificate(tmp_path_factory.mktemp("trusted"))


@pytest.fixture(scope="module")
def secure(s3_endpoint, certificate):
    """The server, behind TLS."""
    with relays.with_tls(s3_endpoint, certificate) as endpoint:
        yield endpoint


def trust(monkeypatch: pytest.MonkeyPatch, path) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))


@pytest.fixture
def config(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Writes `~/.aws/config`."""

    def write(text: str) -> None:
        path = tmp_path / "config"
        path.write_text(text)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(path))

    return write


@pytest.mark.parametrize("by", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "ca_bundle"])
def test_a_ca_that_boto3_is_told_of_is_trusted_for_questions_and_for_data(
    s3, secure, certificate, monkeypatch, config, by
):
    if by == "ca_bundle":
        config(f"[default]\nca_bundle = {certificate}\n")
    else:
        monkeypatch.setenv(by, str(certificate))
    with opened(s3, secure) as store:
        write(store)
        assert len(read(store)) == store.head("model_1.pt").size_bytes


def test_a_certificate_that_is_not_trusted_is_said_at_once_for_questions_and_for_data(
    s3, secure, tmp_path, monkeypatch
):
    trust(monkeypatch, relays.certificate(tmp_path))
    with opened(s3, secure, give_up_after="10m") as store:
        for call in (store.list, lambda: read(store), lambda: write(store)):
            with pytest.raises(StorageError, match=r"certificate of the store is not trusted \(") as caught:
                call()
            assert "tried" not in str(caught.value)
            assert "AWS_CA_BUNDLE" in caught.value.hint


@pytest.mark.parametrize(
    ("bundle", "why"), [("none.pem", "cannot be read"), ("empty.pem", "holds no certificate"), ("", "empty")]
)
def test_a_ca_bundle_that_is_none_is_said(s3, secure, tmp_path, monkeypatch, bundle, why):
    (tmp_path / "empty.pem").touch()
    trust(monkeypatch, tmp_path / bundle if bundle else " ")
    with pytest.raises(StorageError, match=f"CA bundle.*{why}"), opened(s3, secure) as store:
        store.list()


def test_an_endpoint_that_speaks_no_tls_is_said_at_once(s3, s3_endpoint):
    with (
        opened(s3, s3_endpoint.replace("http:", "https:")) as store,
        pytest.raises(StorageError, match="does not speak TLS") as caught,
    ):
        store.list()
    assert "http://" in caught.value.hint


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_passes_on_questions_and_data_and_no_proxy_keeps_it_out(
    s3, s3_endpoint, secure, certificate, monkeypatch, scheme
):
    trust(monkeypatch, certificate)
    endpoint = secure if scheme == "https" else s3_endpoint
    with relays.relay(f"me:{PASSWORD}") as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", proxy.url_with_credentials)
        with opened(s3, endpoint) as store:
            write(store)
            assert read(store)
        methods = {one.partition(" ")[0] for one in proxy.seen}
        assert methods == ({"CONNECT"} if scheme == "https" else {"PUT", "POST", "GET"})
        proxy.seen.clear()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        client._clients.clear()
        with opened(s3, endpoint) as store:
            assert read(store)
        assert proxy.seen == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password_or_is_not_there_is_said_and_no_password(
    s3, s3_endpoint, secure, certificate, monkeypatch, scheme
):
    trust(monkeypatch, certificate)
    endpoint = secure if scheme == "https" else s3_endpoint
    with relays.relay(f"me:{PASSWORD}") as proxy:
        for url, why in (
            (proxy.url.replace("//", "//me:wrong-pa55word@"), "the proxy wants a user and a password"),
            (f"http://me:{PASSWORD}@127.0.0.1:{s3_servers.free_port()}", "the proxy cannot be reached"),
        ):
            monkeypatch.setenv(f"{scheme}_proxy", url)
            client._clients.clear()
            monkeypatch.setattr(retrying, "_NEVER_ANSWERED_S", 0.1)
            with opened(s3, endpoint) as store:
                for call in (store.list, lambda: read(store)):
                    with pytest.raises(StorageError, match=why) as caught:
                        call()
                    assert "HTTPS_PROXY" in caught.value.hint
                    said = f"{caught.value!r} {vars(caught.value)} {caught.value.hint}"
                    assert PASSWORD not in said
