"""Publishers that send without pause and devices that listen without pause, and the book that both write into."""

import asyncio
import json
import random
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.doubles.hub_client import HubClient, open_hub

LOOK_EVERY_S = 0.1
_LOST = (OSError, TimeoutError, ConnectionClosed, InvalidHandshake, EOFError)


@dataclass(slots=True)
class Book:
    """What was promised and what was seen. A title is said once, so it stands for one notification."""

    accepted: dict[str, str] = field(default_factory=dict)
    """Title to the id that a 202 gave for it."""
    receivers: dict[str, str] = field(default_factory=dict)
    """Title to the user it is for."""
    keys: dict[str, tuple[str, dict[str, object], object]] = field(default_factory=dict)
    """Idempotency-Key to its path, its body, and the reply that its 202 gave."""
    refused: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    faults: list[str] = field(default_factory=list)

    def note_accepted(self, title: str, user_id: str, notification_id: str) -> None:
        earlier = self.accepted.setdefault(title, notification_id)
        if earlier != notification_id:
            self.faults.append(f"{title} was accepted as {earlier} and as {notification_id}")
        self.receivers[title] = user_id


class Publisher:
    """Sends one notification after another; with a key it insists until it has a 202, without one it never repeats."""

    def __init__(self, name: str, base_url: str, bearer: dict[str, str], user_ids: list[str], book: Book) -> None:
        self._name = name
        self._base_url = base_url
        self._bearer = bearer
        self._users = user_ids
        self._book = book
        self._random = random.Random(name)
        self._count = 0

    async def run(self, is_over: asyncio.Event) -> None:
        async with httpx.AsyncClient(base_url=self._base_url, headers=self._bearer, timeout=8) as client:
            while not is_over.is_set():
                await self._send_one(client, is_over)

    async def _send_one(self, client: httpx.AsyncClient, is_over: asyncio.Event) -> None:
        self._count += 1
        title = f"{self._name}-{self._count}"
        key = f"key-{title}" if self._random.random() < 0.7 else None
        path, body, named = self._compose(title)
        headers = {} if key is None else {"Idempotency-Key": key}
        while True:
            reply = await self._post(client, path, body, headers)
            if reply is not None and reply.status_code == 202:
                break
            if reply is not None:
                self._book.refused[reply.status_code] += 1
            if key is None or is_over.is_set():
                return
            await asyncio.sleep(LOOK_EVERY_S)
        answer = reply.json()
        await asyncio.sleep(self._random.uniform(0.02, 0.06))
        if key is not None:
            self._book.keys[key] = (path, body, answer)
        for (one_title, user_id), notification_id in zip(named, _ids(answer), strict=True):
            self._book.note_accepted(one_title, user_id, notification_id)

    def _compose(self, title: str) -> tuple[str, dict[str, object], list[tuple[str, str]]]:
        kind = self._random.random()
        if kind < 0.85:
            user_id = self._random.choice(self._users)
            body: dict[str, object] = {"user_id": user_id, "title": title, "body": "B" * 200}
            if kind < 0.1:
                at = datetime.now(UTC) + timedelta(seconds=self._random.uniform(0.2, 3))
                body["send_at"] = at.isoformat()
            return "/push/send", body, [(title, user_id)]
        users = self._random.sample(self._users, 3)
        named = [(f"{title}.{number}", user_id) for number, user_id in enumerate(users)]
        entries = [{"user_id": user_id, "title": one, "body": "B"} for one, user_id in named]
        return "/push/send/batch", {"notifications": entries}, named

    @staticmethod
    async def _post(
        client: httpx.AsyncClient, path: str, body: dict[str, object], headers: dict[str, str]
    ) -> httpx.Response | None:
        try:
            return await client.post(path, json=body, headers=headers)
        except httpx.TransportError:
            await asyncio.sleep(LOOK_EVERY_S)
            return None


def _ids(answer: dict[str, object]) -> list[str]:
    if "notification_id" in answer:
        return [str(answer["notification_id"])]
    ids = answer["notification_ids"]
    assert isinstance(ids, list)
    return [str(one) for one in ids]


class Device:
    """One installation that comes back as soon as it is cut off, with the cursor that it has kept.

    A forgetful one keeps no cursor and shows by id what it has not shown yet. Some acknowledgements are never sent.
    """

    def __init__(self, name: str, user_id: str, ws_url: str, token: str, book: Book, *, keeps_cursor: bool) -> None:
        self.name = name
        self.user_id = user_id
        self.shown: dict[str, str] = {}
        self.sessions = 0
        self.repeats = 0
        self._url = ws_url
        self._token = token
        self._book = book
        self._keeps_cursor = keeps_cursor
        self._cursor = 0
        self._sequences: dict[str, int] = {}
        self._random = random.Random(name)

    async def run(self) -> None:
        """Listen for ever; whoever started it cancels it."""
        while True:
            with suppress(*_LOST):
                async with asyncio.timeout(None), open_hub(self._url, self._token, open_timeout=3) as client:
                    await self._listen(client)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _listen(self, client: HubClient) -> None:
        hello = {"deviceId": self.name, "acknowledges": True}
        if self._keeps_cursor:
            hello["cursor"] = self._cursor
        await client.send({"type": 1, "target": "Hello", "arguments": [hello], "invocationId": "hello"})
        last = 0
        while True:
            record = await client.next(patience_s=60)
            if record.get("invocationId") == "hello":
                self._greet(record)
            elif record.get("target") == "Notify":
                last = self._show(record["arguments"][0], last)
                if self._random.random() < 0.9:
                    notification_id = record["arguments"][0]["id"]
                    await client.send({"type": 1, "target": "Acknowledge", "arguments": [notification_id]})
            elif record.get("type") == 7:
                return

    def _greet(self, record: dict[str, object]) -> None:
        result = record.get("result")
        if not isinstance(result, dict):
            self._book.faults.append(f"{self.name} was not let in: {json.dumps(record)}")
            return
        self.sessions += 1
        if not result["complete"]:
            self._book.faults.append(f"{self.name} was told that its history is incomplete")

    def _show(self, notification: dict[str, object], last: int) -> int:
        title, notification_id = str(notification["title"]), str(notification["id"])
        sequence = int(str(notification["sequence"]))
        if sequence <= last:
            self._book.faults.append(f"{self.name} got {sequence} after {last} in one session")
        if title in self.shown:
            self.repeats += 1
        if self.shown.setdefault(title, notification_id) != notification_id:
            self._book.faults.append(f"{self.name} was shown {title} under two ids")
        if self._sequences.setdefault(notification_id, sequence) != sequence:
            self._book.faults.append(f"{notification_id} changed its place in the order")
        if self._keeps_cursor and sequence <= self._cursor:
            self._book.faults.append(f"{self.name} got {sequence} although its cursor was {self._cursor}")
        self._cursor = max(self._cursor, sequence)
        return sequence
