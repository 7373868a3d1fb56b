"""A session: a connection whose client has said Hello, and so speaks for a device and may acknowledge."""

from collections.abc import Set as AbstractSet
from uuid import UUID

from appliance.hub.limits import HubLimits
from appliance.hub.messages import Dialect
from appliance.hub.order import SentOrder
from appliance.hub.replay import Replay
from appliance.hub.window import AcknowledgementWindow


class Session:
    """What the hub knows of one device's live session. A connection without one gets the plain dialect.

    `replay` is None once the session is live; `is_announced` tells whether the layers above know of it. `order` and
    `seat_stamp` (see `hub.order`, `hub.seats`) are for one node among several, None and 0 where there is one only.
    """

    __slots__ = (
        "_history_end",
        "_history_ids",
        "_most_held",
        "_most_remembered",
        "_most_replayed",
        "_offered_at",
        "_silent_window_s",
        "_window",
        "acknowledges",
        "device_id",
        "dialect",
        "is_announced",
        "order",
        "replay",
        "seat_stamp",
        "wants_results",
    )

    def __init__(
        self,
        device_id: UUID,
        *,
        acknowledges: bool,
        wants_results: bool,
        limits: HubLimits,
        seat_stamp: int | None = None,
        window: AcknowledgementWindow | None = None,
        is_resumable: bool = False,
    ) -> None:
        """`window` is what earlier sessions of the device have learned; None to begin anew.

        `is_resumable` tells that the connection may outlive its socket.
        """
        self.device_id = device_id
        self.acknowledges = acknowledges
        self.wants_results = wants_results
        self.dialect = Dialect.FULL_WITH_RESULT if wants_results else Dialect.FULL
        self.replay: Replay | None = None
        self.is_announced = False
        self.seat_stamp = seat_stamp or 0
        self.order = None if seat_stamp is None else SentOrder(limits.order_remembered)
        self._window = window or AcknowledgementWindow(
            first_s=limits.window_first_s, least_s=limits.window_least_s, most_s=limits.window_most_s
        )
        # Where no answer is expected, silence means that it was taken; but not yet while the client may turn out lost.
        is_silence_telling = acknowledges or not is_resumable
        self._silent_window_s = 0.0 if is_silence_telling else limits.silent_window_s
        self._most_remembered = limits.offers_remembered
        self._most_held = limits.replay_pending
        self._most_replayed = limits.replay_remembered
        self._offered_at: dict[UUID, float] = {}
        self._history_end = 0
        self._history_ids: AbstractSet[UUID] = frozenset()

    def begin_replay(self, cursor: int | None) -> Replay:
        """Hold live offers back from now on, until `go_live`."""
        self.replay = Replay(
            self._most_held, cursor, most_remembered=self._most_replayed, is_strict=self.order is not None
        )
        return self.replay

    def go_live(self) -> None:
        """The replay is over: offers go straight to the client, and the layers above are about to be told."""
        if self.replay is not None:
            self._history_end = self.replay.end
            self._history_ids = self.replay.sent_ids
            if self.order is not None:
                self.order.go_on(self.replay.end, self.replay.sent_ids)
        self.replay = None
        self.is_announced = True

    def is_behind_history(self, sequence: int) -> bool:
        """Tell whether the history went past this place in the user's order already.

        History is read from the disk and may be ahead of the offers: what was committed a moment ago is in it, and its
        offer follows. Offers come in order, so with the first one beyond the history the rest of it is forgotten.
        """
        if sequence <= self._history_end:
            return True
        self._history_ids = frozenset()
        return False

    def was_in_history(self, notification_id: UUID) -> bool:
        """Tell whether the history has brought this one; only meaningful where `is_behind_history`."""
        return notification_id in self._history_ids

    def window_s(self, most_s: float) -> float:
        """Tell how long to wait for an acknowledgement; `most_s` while a replay still stands in front of it.

        Longer than a client may stay away where it never acknowledges, but might lose its socket and its offers.
        """
        return self._silent_window_s or (most_s if self.replay is not None else self._window.seconds)

    def is_late(self, round_trip_s: float) -> bool:
        """Tell whether an answer came after the wait for it was over; ask before the window learns from it."""
        return round_trip_s > self._window.seconds

    def note_offered(self, notification_id: UUID, now: float) -> None:
        """Remember when an offer was written, to measure its round trip."""
        if not self.acknowledges:
            return
        if len(self._offered_at) >= self._most_remembered:
            del self._offered_at[next(iter(self._offered_at))]
        self._offered_at[notification_id] = now

    def forget_round_trips(self) -> None:
        """What is under way may have to be sent again: how long its answer takes says nothing about the device."""
        self._offered_at.clear()

    def note_acknowledged(self, notification_id: UUID, now: float) -> float | None:
        """Give the round trip in seconds, None when it was not measured; `learn` it next."""
        offered_at = self._offered_at.pop(notification_id, None)
        return None if offered_at is None else max(0.0, now - offered_at)

    def learn(self, round_trip_s: float) -> None:
        """Let the window follow a measured round trip."""
        self._window.learn(round_trip_s)
