"""The handshake: what precedes `hub.protocol`, always in JSON, without any input or output.

Source: dotnet/aspnetcore `HubProtocol.md`, section handshake; ASP.NET Core `HubConnectionContext`, for the texts.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from appliance.hub.encoding import Frame, HubEncoding, RecordTooLarge, SeparatorSplitter
from appliance.hub.methods import shorten_name
from appliance.hub.protocol import LiveProtocol, ProtocolTimes

HANDSHAKE_CANCELED: Final = "Handshake was canceled."
HANDSHAKE_FAILED: Final = "An unexpected error occurred during connection handshake."
NEWEST_VERSION: Final = 2
# With which a client says that it took the grant of stateful reconnect.
_STATEFUL_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class HandshakeAccepted:
    """Send `answer`; from now on the connection is `live`."""

    answer: Frame
    live: LiveProtocol


@dataclass(frozen=True, slots=True)
class HandshakeRefused:
    """Send `answer`, then end the transport."""

    answer: Frame
    reason: str


HandshakeEvent = HandshakeAccepted | HandshakeRefused


class _Handshake(msgspec.Struct):
    protocol: str
    version: int


_handshake_decoder: Final = msgspec.json.Decoder(_Handshake)


class AwaitingHandshake:
    """A connection whose client has not said yet which protocol it speaks."""

    __slots__ = (
        "_deadline",
        "_encodings",
        "_has_ended",
        "_is_stateful",
        "_splitter",
        "_times",
        "_transfer_formats",
        "has_begun",
    )

    def __init__(
        self,
        encodings: Mapping[str, HubEncoding],
        times: ProtocolTimes,
        now: float,
        *,
        transfer_formats: Collection[str] = ("Text", "Binary"),
        is_stateful: bool = False,
    ) -> None:
        """`transfer_formats` are those that the transport can carry; `is_stateful` grants stateful reconnect."""
        self.has_begun = False
        self._is_stateful = is_stateful
        self._transfer_formats = transfer_formats
        self._encodings = encodings
        self._times = times
        self._splitter = SeparatorSplitter(times.message_bytes)
        self._deadline = now + times.handshake_timeout_s
        self._has_ended = False

    @property
    def next_deadline(self) -> float:
        """The moment (monotonic seconds) at which the handshake is given up."""
        return self._deadline

    def receive(self, data: str | bytes, now: float) -> HandshakeEvent | None:
        """Take what arrived; None means that the handshake is not whole yet."""
        if self._has_ended:
            return None
        self.has_begun = True
        chunk = data.encode() if isinstance(data, str) else data
        before, separator, after = chunk.partition(b"\x1e")
        try:
            record = next(self._splitter.feed(before + separator), None)
        except RecordTooLarge:
            return self._refuse(HANDSHAKE_CANCELED)
        if record is None:
            return None
        return self._answer(record, after, now)

    def pass_time(self, now: float) -> HandshakeRefused | None:
        """Give up when the deadline has come."""
        if self._has_ended or now < self._deadline:
            return None
        return self._refuse(HANDSHAKE_CANCELED)

    def _answer(self, record: bytes, after: bytes, now: float) -> HandshakeEvent:
        try:
            handshake = _handshake_decoder.decode(record)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._refuse(HANDSHAKE_FAILED)
        encoding = self._encodings.get(handshake.protocol)
        if encoding is None:
            return self._refuse(f"The protocol '{shorten_name(handshake.protocol)}' is not supported.")
        if encoding.transfer_format not in self._transfer_formats:
            return self._refuse(
                f"Cannot use the '{encoding.name}' protocol on the current transport. "
                f"The transport does not support '{encoding.transfer_format}' transfer format."
            )
        if not 0 <= handshake.version <= NEWEST_VERSION:
            version = shorten_name(str(handshake.version))
            return self._refuse(f"The server does not support version {version} of the '{encoding.name}' protocol.")
        self._has_ended = True
        answer = Frame("{}\x1e", 3) if encoding.transfer_format == "Text" else Frame(b"{}\x1e", 3)
        is_stateful = self._is_stateful and handshake.version >= _STATEFUL_VERSION
        live = LiveProtocol(encoding, self._times, now, already_received=after, is_stateful=is_stateful)
        return HandshakeAccepted(answer, live)

    def _refuse(self, error: str) -> HandshakeRefused:
        self._has_ended = True
        encoded = msgspec.json.encode({"error": error}) + b"\x1e"
        return HandshakeRefused(Frame(encoded.decode(), len(encoded)), error)
