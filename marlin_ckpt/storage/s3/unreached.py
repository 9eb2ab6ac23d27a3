"""Why a store does not answer: the network, a proxy, a certificate, credentials that are not there."""

import errno
import re
import ssl
from collections.abc import Iterator
from typing import Any

import urllib3.exceptions
from botocore.exceptions import (
    BotoCoreError,
    ConfigParseError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    InvalidConfigError,
    InvalidProxiesConfigError,
    LoginError,
    NoAuthTokenError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as OfConnection
from botocore.parsers import ResponseParserError

from marlin_ckpt.errors import StorageError


class NotOfStoreError(urllib3.exceptions.ProtocolError):
    """An answer of success that no store gives, such as the page of a web server."""


SIGN_IN = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run `aws login`"
LOOK_AT_ENDPOINT = "look at the endpoint (checkpointer.remote.endpoint, AWS_ENDPOINT_URL)"
NOT_S3 = "what answers there is no S3 store"
_LOOK_AT_PROXY = "look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
_LOOK_AT_CONFIG = "look at the environment (AWS_...) and ~/.aws/config"
_LOOK_AT_CA = "look at AWS_CA_BUNDLE, and at ca_bundle in ~/.aws/config"
# Of credentials that boto3 found nowhere, or found expired and could not renew.
_NO_CREDENTIALS = (
    NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, TokenRetrievalError,
    NoAuthTokenError, SSOError, LoginError,
)  # fmt: skip
# The reason, what to do, and the `errno`, of errors that say all by their class. Where there is no reason it
# is botocore's own: its sentences name parameters, profiles and regions, and no secrets.
_REASONS: tuple[tuple[Any, str, str, int], ...] = (
    (_NO_CREDENTIALS, "there are no credentials for the store", SIGN_IN, errno.EACCES),
    (ProfileNotFound, "", "look at AWS_PROFILE and ~/.aws/config", errno.EACCES),
    (
        NoRegionError,
        "no region is set",
        "set AWS_DEFAULT_REGION or checkpointer.remote.region",
        errno.EINVAL,
    ),
    ((NotOfStoreError, ResponseParserError), NOT_S3, LOOK_AT_ENDPOINT, errno.EPROTO),
    (ProxyConnectionError, "the proxy cannot be reached", _LOOK_AT_PROXY, errno.ETIMEDOUT),
    (
        EndpointConnectionError,
        "the store cannot be reached",
        f"{LOOK_AT_ENDPOINT}, the network and the proxy",
        errno.ETIMEDOUT,
    ),
    ((InvalidConfigError, InvalidProxiesConfigError, ConfigParseError), "", _LOOK_AT_CONFIG, errno.EINVAL),
)
# As `http.client` says it of a proxy that does not let us through.
_REFUSED_BY_PROXY = re.compile(r"Tunnel connection failed: (4\d\d)")
_AUTHENTICATE = 407  # RFC 9110, 15.5.8: a proxy wants to know who asks
_MOST_CAUSES = 10  # of an error, each in the one before
_MOST_LETTERS = 300


def may_pass(error: BaseException) -> bool:
    """Whether the same request may be answered a little later."""
    if isinstance(error, (*_NO_CREDENTIALS, StorageError)):
        return False
    if _is_untrusted(error) or _refused_by_proxy(error):
        return False
    return is_of_connection(error) or isinstance(error, (urllib3.exceptions.HTTPError, OSError))


def is_of_connection(error: Any) -> bool:
    """Whether botocore could not send or receive; its other errors say that the request is wrong."""
    if type(error) is HTTPClientError:  # around whatever was raised, a fault of a program as well
        cause = error.kwargs.get("error")
        return isinstance(cause, (urllib3.exceptions.HTTPError, OSError))
    # What cannot be parsed may have been cut off.
    return isinstance(error, HTTPClientError | OfConnection | ResponseParserError)


def error_for(error: BaseException, action: str, where: str) -> StorageError:
    """What is raised in the place of an error that is no answer.

    Args:
        error: what a request ended with.
        action: that was tried, such as `cannot read`.
        where: the URL of the object or directory.
    """
    why, hint, number = _told(error)
    return StorageError(f"{action}: {why}", where, hint, errno=number)


def by_proxy(status: int) -> tuple[str, str]:
    """What is said where a proxy refuses: the reason, and what to do."""
    if status == _AUTHENTICATE:
        return "the proxy wants a user and a password", "put them into the URL of HTTPS_PROXY or HTTP_PROXY"
    return f"the proxy lets nothing through to the store (status {status})", _LOOK_AT_PROXY


def _told(error: BaseException) -> tuple[str, str, int]:
    """The reason, what to do, and the `errno`."""
    if isinstance(error, SSLError):
        return (*_of_tls(error), errno.EPROTO)
    if status := _refused_by_proxy(error):
        return (*by_proxy(status), errno.EACCES)
    for kinds, why, hint, number in _REASONS:
        if isinstance(error, kinds):
            return why or _first_line(error), hint, number
    if may_pass(error):
        why = f"the store does not answer ({_kind(error)})"
        return why, f"{LOOK_AT_ENDPOINT}, the network and the proxy", errno.ETIMEDOUT
    if isinstance(error, BotoCoreError):
        return _first_line(error), "", errno.EREMOTEIO
    # Of a wrong endpoint boto3 says so by a ValueError that shows all of it.
    return "boto3 cannot be set up as it is asked to", LOOK_AT_ENDPOINT, errno.EINVAL


def _of_tls(error: BaseException) -> tuple[str, str]:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            hint = "name the bundle of the CA that has signed it by AWS_CA_BUNDLE, or look at the endpoint"
            return f"the certificate of the store is not trusted ({cause.verify_message.rstrip('.')})", hint
        if isinstance(cause, FileNotFoundError | PermissionError | IsADirectoryError):
            return f"the CA bundle cannot be read ({cause.strerror})", _LOOK_AT_CA
        if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
            hint = "begin the endpoint with http://, or name a port at which it speaks TLS"
            return "what answers there does not speak TLS", hint
        if isinstance(cause, ssl.SSLError) and cause.reason in ("NO_CERTIFICATE_OR_CRL_FOUND", "PEM_LIB"):
            return "the CA bundle holds no certificate", _LOOK_AT_CA
    return "no secure connection to the store", f"{LOOK_AT_ENDPOINT} and AWS_CA_BUNDLE"


def _is_untrusted(error: BaseException) -> bool:
    """Whether a secure connection will never be made; others break off, as any connection does."""
    return isinstance(error, SSLError) and not any(
        isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError | ConnectionError)
        for cause in _causes(error)
    )


def _refused_by_proxy(error: BaseException) -> int:
    """The status by which a proxy refuses; 0 where it does not."""
    if isinstance(error, ProxyConnectionError):
        for cause in _causes(error):
            if found := _REFUSED_BY_PROXY.search(str(cause)):
                return int(found.group(1))
    return 0


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The errors that an error is made of: botocore and urllib3 keep each in the next one's arguments."""
    found: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if found is None:
            return
        yield found
        inner = (found.kwargs.get("error"),) if isinstance(found, BotoCoreError) else found.args
        within = (one for one in inner if isinstance(one, BaseException))
        found = next(within, None) or getattr(found, "reason", None) or found.__cause__
        if not isinstance(found, BaseException):
            return


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:_MOST_LETTERS].rstrip(". ")


def _kind(error: Any) -> str:
    """What happened to a connection, in a word or two: the text of such errors holds URLs and addresses."""
    name = type(error).__name__.removesuffix("Error").removesuffix("Exception")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
