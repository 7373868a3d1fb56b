"""An OpenID Connect issuer on loopback: real discovery, real key sets, tokens signed with real keys."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.doubles.http_peer import Asked, HttpPeer, plain_reply, run_http_peer


class OidcIssuer:
    """Publishes `keys` (kid -> private key; the kid may be `None`). All its attributes may be changed at any time."""

    def __init__(self) -> None:
        self.keys: dict[str | None, Any] = {}
        self.odd_entries: list[object] = []
        self.cache_control: str | None = None
        self.is_down = False
        self.gate: asyncio.Event | None = None
        self.claimed_issuer: str | None = None
        self.peer = HttpPeer(plain_reply())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.peer.port}/realm"

    @property
    def key_fetches(self) -> int:
        """How often the key set was fetched."""
        return sum(asked.path == "/realm/keys" for asked in self.peer.asked)

    def token(self, kid: str | None, algorithm: str, *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """Sign claims with the key of that id."""
        own_headers = ({} if kid is None else {"kid": kid}) | (headers or {})
        return jwt.encode(claims, self.keys[kid], algorithm=algorithm, headers=own_headers)

    async def answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if self.gate is not None:
            await self.gate.wait()
        headers = {"Cache-Control": self.cache_control} if self.cache_control is not None else {}
        if self.is_down:
            await plain_reply(b"down", status=503)(asked, writer)
        elif asked.path == "/realm/.well-known/openid-configuration":
            document = {"issuer": self.claimed_issuer or self.url, "jwks_uri": f"{self.url}/keys", "more": [1]}
            await plain_reply(json.dumps(document).encode())(asked, writer)
        elif asked.path == "/realm/keys":
            entries = [*self.odd_entries, *(_published(kid, key) for kid, key in self.keys.items())]
            await plain_reply(json.dumps({"keys": entries}).encode(), headers=headers)(asked, writer)
        else:
            await plain_reply(b"", status=404)(asked, writer)


@asynccontextmanager
async def run_oidc_issuer() -> AsyncIterator[OidcIssuer]:
    """Run an issuer without keys until the block ends."""
    issuer = OidcIssuer()
    async with run_http_peer(issuer.answer) as peer:
        issuer.peer = peer
        yield issuer


def _published(kid: str | None, key: Any) -> dict[str, Any]:
    public = key.public_key()
    if isinstance(key, rsa.RSAPrivateKey):
        entry = dict(RSAAlgorithm.to_jwk(public, as_dict=True))
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        entry = dict(ECAlgorithm.to_jwk(public, as_dict=True))
    else:
        assert isinstance(key, ed25519.Ed25519PrivateKey)
        entry = dict(OKPAlgorithm.to_jwk(public, as_dict=True))
    entry.pop("key_ops", None)
    return entry | ({} if kid is None else {"kid": kid}) | {"use": "sig"}
