"""The hub methods that a client may call: their names and the checking of their arguments."""

from collections.abc import Sequence
from typing import Annotated, Final
from uuid import UUID

import msgspec

from appliance.domain.notification import is_storable_text
from appliance.hub.backend import Hello

HELLO: Final = "hello"
ACKNOWLEDGE: Final = "acknowledge"

_UUID_TEXT_CHARS: Final = 36
_LONGEST_SHOWN_CHARS: Final = 128


class WrongArguments(Exception):
    """The arguments of a hub method do not mean anything; `text` tells the client the fix."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def shorten_name(name: str) -> str:
    """Give a client's own word as an answer may repeat it: an answer shall not be as large as it likes."""
    return name if len(name) <= _LONGEST_SHOWN_CHARS else f"{name[:_LONGEST_SHOWN_CHARS]}…"


class _HelloArgument(msgspec.Struct, rename="camel"):
    device_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    cursor: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    acknowledges: bool = False
    results: bool = False
    label: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    platform: Annotated[str, msgspec.Meta(max_length=32)] | None = None


def parse_hello(arguments: Sequence[object]) -> tuple[Hello, bool]:
    """Read `Hello({deviceId, cursor, acknowledges, results, label, platform})`; only `deviceId` is required.

    The second value tells whether the client wants notifications as invocations whose result acknowledges them.
    Raises `WrongArguments`.
    """
    if len(arguments) != 1:
        raise WrongArguments("Give Hello exactly one object.")
    try:
        given = msgspec.convert(arguments[0], _HelloArgument)
    except msgspec.ValidationError as error:
        raise WrongArguments(f"Give Hello one object with a deviceId: {error}.") from None
    for name, text in (("deviceId", given.device_id), ("label", given.label), ("platform", given.platform)):
        if text is not None and not is_storable_text(text):
            raise WrongArguments(f"Remove NUL characters and unpaired surrogates from {name}.")
    hello = Hello(
        device_id=given.device_id,
        cursor=given.cursor,
        acknowledges=given.acknowledges or given.results,
        label=given.label,
        platform=given.platform,
    )
    return hello, given.results


def parse_acknowledge(arguments: Sequence[object]) -> UUID:
    """Read `Acknowledge(id)`. Raises `WrongArguments`."""
    notification_id = parse_notification_id(arguments[0]) if len(arguments) == 1 else None
    if notification_id is None:
        raise WrongArguments("Give Acknowledge exactly one notification id.")
    return notification_id


def parse_notification_id(text: object) -> UUID | None:
    """Read an id as the hub writes them, 36 characters; None for anything else."""
    if not isinstance(text, str) or len(text) != _UUID_TEXT_CHARS:
        return None
    try:
        return UUID(text)
    except ValueError:
        return None
