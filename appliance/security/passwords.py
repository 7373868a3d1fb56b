"""People's passwords: argon2id, at a bounded cost for the house.

Hashing runs in two threads of its own. Whoever comes while both are busy waits in a bounded queue with a deadline; when
the queue is full or the deadline passes the caller gets `Overloaded` (503), so that a flood of log-ins cannot eat the
machine.
"""

import asyncio
import base64
import secrets
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from appliance.domain.errors import InvalidField, Unavailable
from appliance.domain.notification import is_storable_text
from appliance.domain.secret import Secret
from appliance.security.common_passwords import COMMON_PASSWORDS

MIN_PASSWORD_CHARS: Final = 10
MAX_PASSWORD_CHARS: Final = 1024

_T = TypeVar("_T")


class Overloaded(Unavailable):
    """Too many log-ins at once; nothing was checked and trying again is right."""

    code = "overloaded"
    title = "Too many log-ins at once"

    def __init__(self) -> None:
        super().__init__("Many people are logging in at this moment. Try again in a few seconds.", retry_after_s=3)


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    """What one hash costs. The default is OWASP's 46 MiB, one pass, one lane: about 50 ms on a small server."""

    memory_kib: int = 47_104
    passes: int = 1
    lanes: int = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the password is right, and whether it should be hashed again at today's cost."""

    is_right: bool
    needs_rehash: bool = False


class PasswordHasher:
    """Hashes and verifies passwords without blocking the event loop.

    At most `workers` run at once and `queue_limit` wait, each at most `deadline_s` seconds; beyond that `Overloaded`.
    A caller that is cancelled while waiting costs nothing more. `close` when done.
    """

    def __init__(
        self,
        cost: Argon2Cost | None = None,
        *,
        workers: int = 2,
        queue_limit: int = 32,
        deadline_s: float = 5.0,
    ) -> None:
        cost = cost or Argon2Cost()
        self._argon2 = argon2.PasswordHasher(
            time_cost=cost.passes, memory_cost=cost.memory_kib, parallelism=cost.lanes, type=argon2.Type.ID
        )
        self._nobody = _hash_of_nobody(cost)
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="passwords")
        self._room = workers + queue_limit
        self._taken = 0
        self._lock = threading.Lock()
        self._deadline_s = deadline_s

    async def hash(self, password: Secret) -> str:
        """Hash a password for storing, as a self-describing `$argon2id$…` text. Raises `Overloaded`."""
        data = _prepare(password)
        return await self._run(lambda: self._argon2.hash(data))

    async def verify(self, stored_hash: str | None, password: Secret) -> Verdict:
        """Check a password; `None` (no such user, or no password) costs the same and is never right.

        Raises `Overloaded`. A stored text that is not an argon2 hash counts as wrong at the same cost.
        """
        is_too_long = len(password.reveal()) > MAX_PASSWORD_CHARS
        data = b"" if is_too_long else _prepare(password)
        against = stored_hash if stored_hash is not None and not is_too_long else self._nobody
        return await self._run(lambda: self._check(against, data))

    def close(self) -> None:
        """Drop who waits, let running hashes end, and free the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _check(self, stored_hash: str, data: bytes) -> Verdict:
        try:
            self._argon2.verify(stored_hash, data)
        except InvalidHashError:
            self._check(self._nobody, data)
            return Verdict(is_right=False)
        except VerificationError:
            return Verdict(is_right=False)
        return Verdict(is_right=True, needs_rehash=self._argon2.check_needs_rehash(stored_hash))

    async def _run(self, work: Callable[[], _T]) -> _T:
        with self._lock:
            if self._taken >= self._room:
                raise Overloaded
            self._taken += 1
        future = self._submit(work)
        try:
            async with asyncio.timeout(self._deadline_s):
                # Cancelling the wrapper cancels the work too, unless a thread has begun it.
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise Overloaded from None

    def _submit(self, work: Callable[[], _T]) -> "Future[_T]":
        try:
            future = self._executor.submit(work)
        except RuntimeError:
            self._leave(None)
            raise Overloaded from None
        future.add_done_callback(self._leave)
        return future

    def _leave(self, _: object) -> None:
        with self._lock:
            self._taken -= 1


def check_new_password(password: Secret, *, username: str, field: str = "password") -> None:
    """Check the rules for a password that is being set; raises `InvalidField` that says the broken one.

    Rules: 10 to 1024 characters of valid Unicode without NUL, not the user's name, not one of the most common.
    """
    text = password.reveal()
    if not MIN_PASSWORD_CHARS <= len(text) <= MAX_PASSWORD_CHARS:
        raise InvalidField(field, f"Choose a password of {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters.")
    if not is_storable_text(text):
        raise InvalidField(field, "Remove NUL characters and unpaired surrogates from the password.")
    folded = unicodedata.normalize("NFKC", text).casefold()
    if folded == unicodedata.normalize("NFKC", username).casefold():
        raise InvalidField(field, "Choose a password that is not the user name.")
    if folded in COMMON_PASSWORDS or len(set(folded)) == 1:
        raise InvalidField(field, "This password is one of the most common ones. Choose another.")


def _prepare(password: Secret) -> bytes:
    # NFKC, so that an accent typed on another keyboard gives the same bytes (NIST SP 800-63B section 5.1.1.2).
    return unicodedata.normalize("NFKC", password.reveal()).encode("utf-8", "surrogatepass")


def _hash_of_nobody(cost: Argon2Cost) -> str:
    # A random digest under today's parameters: costs a full verification and matches no password.
    salt, digest = (base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=") for size in (16, 32))
    return f"$argon2id$v=19$m={cost.memory_kib},t={cost.passes},p={cost.lanes}${salt}${digest}"
