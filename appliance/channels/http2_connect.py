"""Connects to an HTTP/2 server, and says in plain words why that did not work."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import urlsplit

from appliance.channels.http2_messages import Failure

_ALPN: Final = "h2"
_HAPPY_EYEBALLS_S: Final = 0.25
_TLS_SHUTDOWN_S: Final = 1.0

ProtocolType = TypeVar("ProtocolType", bound=asyncio.Protocol)


@dataclass(frozen=True, slots=True)
class Http2Target:
    """The server behind a base URL."""

    host: str
    port: int
    is_plain: bool

    @property
    def scheme(self) -> bytes:
        return b"http" if self.is_plain else b"https"

    @property
    def authority(self) -> bytes:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        usual = 80 if self.is_plain else 443
        return (shown if self.port == usual else f"{shown}:{self.port}").encode("ascii")


class ConnectFailed(Exception):
    """There is no connection; `reason` classifies it, the text says why in plain words."""

    def __init__(self, reason: Failure, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def read_target(base_url: str) -> Http2Target:
    """Read a base URL: https, or http for a server that is spoken to in HTTP/2 without TLS (prior knowledge).

    Raises `ValueError` that quotes the URL when it is none, or names more than a server.
    """
    try:
        url = urlsplit(base_url)
        port = url.port
    except ValueError:
        raise ValueError(f"{base_url!r} is not a URL.") from None
    if url.scheme not in ("https", "http") or not url.hostname or not base_url.isascii():
        raise ValueError(f"{base_url!r} is not an https URL of a server.")
    if url.path not in ("", "/") or url.query or url.fragment or url.username is not None:
        raise ValueError(f"{base_url!r} names more than a server: give scheme, host and port only.")
    is_plain = url.scheme == "http"
    return Http2Target(url.hostname, port or (80 if is_plain else 443), is_plain)


async def connect(
    make_protocol: Callable[[], ProtocolType], target: Http2Target, tls: ssl.SSLContext, deadline_s: float
) -> ProtocolType:
    """Resolve the name anew, connect, and agree on HTTP/2. `tls` must offer it (ALPN) and verify as the caller wishes.

    Raises `ConnectFailed` when there is no connection after `deadline_s` seconds or earlier.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(deadline_s):
            transport, protocol = await loop.create_connection(
                make_protocol,
                target.host,
                target.port,
                ssl=None if target.is_plain else tls,
                server_hostname=None if target.is_plain else target.host,
                ssl_handshake_timeout=None if target.is_plain else deadline_s,
                ssl_shutdown_timeout=None if target.is_plain else _TLS_SHUTDOWN_S,
                happy_eyeballs_delay=_HAPPY_EYEBALLS_S,
            )
    except TimeoutError:
        raise ConnectFailed(
            Failure.CONNECT, f"{_name(target)} did not accept a connection within {deadline_s:g} s."
        ) from None
    except OSError as error:
        raise explain(error, target) from None
    if not target.is_plain:
        agreed = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        if agreed != _ALPN:
            transport.abort()
            raise ConnectFailed(Failure.PROTOCOL, f"{_name(target)} does not offer HTTP/2.")
    return protocol


def offer_http2(tls: ssl.SSLContext) -> ssl.SSLContext:
    """Let TLS settings offer HTTP/2 and nothing else; gives them back."""
    tls.set_alpn_protocols([_ALPN])
    return tls


def explain(error: OSError, target: Http2Target) -> ConnectFailed:
    """Say what a fault of the network or of TLS means for somebody who can do something about it."""
    name = _name(target)
    match error:
        case socket.gaierror():
            return ConnectFailed(Failure.NAME, f"The name {target.host} could not be resolved: check DNS and network.")
        case ssl.SSLCertVerificationError():
            return ConnectFailed(
                Failure.TLS, f"The certificate of {name} is not accepted: {error.verify_message or 'unknown fault'}."
            )
        case ssl.SSLError() if "alert" in str(error).lower():
            said = (error.reason or "alert").lower().replace("_", " ")
            return ConnectFailed(Failure.TLS, f"{name} refused the TLS connection or our certificate: {said}.")
        case ssl.SSLError():
            said = (error.reason or "no details").lower().replace("_", " ")
            return ConnectFailed(Failure.TLS, f"No TLS connection to {name}: {said}.")
        case ConnectionRefusedError():
            return ConnectFailed(Failure.CONNECT, f"{name} refuses connections: nothing listens there.")
        case ConnectionError():
            return ConnectFailed(Failure.CONNECT, f"{name} closed the connection before it could be used.")
        case _:
            said = error.strerror or "unknown fault"
            return ConnectFailed(Failure.CONNECT, f"No connection to {name}: {said}.")


def _name(target: Http2Target) -> str:
    return f"{target.host}:{target.port}"
