"""The table that a run ends with."""

import statistics
from collections.abc import Sequence
from typing import Any


class Report:
    """Collects rows, goals and notes; prints them once, so that nothing is lost between other output.

    `scale` names what the second column counts.
    """

    def __init__(self, title: str = "", *, scale: str = "callers") -> None:
        self._title = title
        self._scale = scale
        self._rows: list[tuple[str, str, str, str]] = []
        self._goals: list[tuple[str, str, str, bool]] = []
        self._notes: list[str] = []

    @property
    def all_met(self) -> bool:
        return all(is_met for *_, is_met in self._goals)

    def rate(self, name: str, callers: int, per_s: Sequence[float], detail: str = "") -> None:
        """Add a rate; of several rounds the median, with the least and the most beside it."""
        self._rows.append((name, f"{callers}", f"{show_spread(per_s)}/s", detail))

    def latency(self, name: str, spread: dict[str, Any], detail: str = "") -> None:
        figures = f"p50 {spread['p50_ms']:.1f} ms, p99 {spread['p99_ms']:.1f} ms"
        self._rows.append((name, "", figures, detail))

    def figure(self, name: str, count: int, text: str, detail: str = "") -> None:
        """Add any other figure."""
        self._rows.append((name, f"{count}", text, detail))

    def goal(
        self,
        name: str,
        value: float,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        below: float | None = None,
    ) -> None:
        """Judge a figure by its one goal."""
        if at_least is not None:
            is_met, wanted = value >= at_least, f"at least {at_least:g}"
        elif at_most is not None:
            is_met, wanted = value <= at_most, f"at most {at_most:g}"
        else:
            is_met, wanted = below is not None and value < below, f"below {below:g}"
        self._goals.append((name, f"{value:.3g}", wanted, is_met))

    def note(self, text: str) -> None:
        self._notes.append(text)

    def print(self) -> None:
        if self._title:
            print(f"\n{self._title}\n{'=' * len(self._title)}")
        for note in self._notes:
            print(f"  {note}")
        print()
        _print_table(("what", self._scale, "measured", ""), self._rows)
        if self._goals:
            print()
            rows = [
                (name, value, wanted, "met" if is_met else "NOT MET") for name, value, wanted, is_met in self._goals
            ]
            _print_table(("goal", "measured", "wanted", ""), rows)


def show_spread(values: Sequence[float], digits: int = 0) -> str:
    """Write the median, and of several values the least and the most behind it."""
    spread = f" [{min(values):,.{digits}f}-{max(values):,.{digits}f}]" if len(values) > 1 else ""
    return f"{statistics.median(values):,.{digits}f}{spread}"


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, tuple("-" * width for width in widths), *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
