"""How long to wait for an acknowledgement: learned from the session's own round trips.

The estimator is TCP's (RFC 6298, section 2): a smoothed round trip plus four times its smoothed variation.
"""

from collections import OrderedDict
from typing import Final
from uuid import UUID

_GAIN: Final = 1 / 8
_VARIATION_GAIN: Final = 1 / 4
_VARIATIONS: Final = 4


class AcknowledgementWindow:
    """The adaptive window of one device, in seconds, always between `least_s` and `most_s`."""

    __slots__ = ("_least_s", "_most_s", "_smoothed_s", "_variation_s", "_window_s")

    def __init__(self, *, first_s: float, least_s: float, most_s: float) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._smoothed_s: float | None = None
        self._variation_s = 0.0
        self._window_s = first_s

    @property
    def seconds(self) -> float:
        return self._window_s

    def learn(self, round_trip_s: float) -> None:
        """Take one measured round trip into account."""
        if self._smoothed_s is None:
            self._smoothed_s = round_trip_s
            self._variation_s = round_trip_s / 2
        else:
            error = abs(self._smoothed_s - round_trip_s)
            self._variation_s += _VARIATION_GAIN * (error - self._variation_s)
            self._smoothed_s += _GAIN * (round_trip_s - self._smoothed_s)
        wanted_s = self._smoothed_s + _VARIATIONS * self._variation_s
        self._window_s = min(self._most_s, max(self._least_s, wanted_s))


class LearnedWindows:
    """What was learned of each device, for its next session. Bound: `most`; who came longest ago is forgotten first."""

    def __init__(self, *, first_s: float, least_s: float, most_s: float, most: int) -> None:
        self._first_s = first_s
        self._least_s = least_s
        self._most_s = most_s
        self._most = most
        self._windows: OrderedDict[UUID, AcknowledgementWindow] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def recall(self, device_id: UUID) -> AcknowledgementWindow:
        """Give the device's window, as learned in earlier sessions; the session goes on learning with it."""
        window = self._windows.get(device_id)
        if window is None:
            window = AcknowledgementWindow(first_s=self._first_s, least_s=self._least_s, most_s=self._most_s)
            self._windows[device_id] = window
            if len(self._windows) > self._most:
                self._windows.popitem(last=False)
        else:
            self._windows.move_to_end(device_id)
        return window
