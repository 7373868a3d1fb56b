"""The table that a run ends with."""

import statistics
from collections.abc import Sequence
from typing import Any


class Report:
    """Collects rows, goals and notes; prints them once, so that nothing is lost between other output."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str, str]] = []
        self._goals: list[tuple[str, str, str, bool]] = []
        self._notes: list[str] = []

    @property
    def all_met(self) -> bool:
        return all(is_met for *_, is_met in self._goals)

    def rate(self, name: str, callers: int, per_s: Sequence[float], detail: str = "") -> None:
        """Add a rate; of several rounds the median, with the least and the most beside it."""
        spread = f" [{min(per_s):,.0f}-{max(per_s):,.0f}]" if len(per_s) > 1 else ""
        self._rows.append((name, str(callers), f"{statistics.median(per_s):,.0f}/s{spread}", detail))

    def latency(self, name: str, spread: dict[str, Any], detail: str = "") -> None:
        figures = f"p50 {spread['p50_ms']:.1f} ms, p99 {spread['p99_ms']:.1f} ms"
        self._rows.append((name, "", figures, detail))

    def goal(self, name: str, value: float, *, at_least: float | None = None, below: float | None = None) -> None:
        """Judge a figure by its goal."""
        is_met = value >= at_least if at_least is not None else below is not None and value < below
        wanted = f"at least {at_least:g}" if at_least is not None else f"below {below:g}"
        self._goals.append((name, f"{value:.3g}", wanted, is_met))

    def note(self, text: str) -> None:
        self._notes.append(text)

    def print(self) -> None:
        for note in self._notes:
            print(f"  {note}")
        print()
        _print_table(("what", "callers", "measured", ""), self._rows)
        if self._goals:
            print()
            rows = [
                (name, value, wanted, "met" if is_met else "NOT MET") for name, value, wanted, is_met in self._goals
            ]
            _print_table(("goal", "measured", "wanted", ""), rows)


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, tuple("-" * width for width in widths), *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
