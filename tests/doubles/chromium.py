"""A real Chromium without a window, driven over its DevTools protocol."""

import asyncio
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

START_DEADLINE_S = 20.0
PATIENCE_S = 15.0
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Give the program, or None where there is none."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


class PageMoved(Exception):
    """The page went elsewhere while a command was under way."""


class BrowserPage:
    """One tab. `troubles` are the exceptions that its scripts did not catch; `asked` the addresses it loaded."""

    def __init__(self, socket: ClientConnection, session: str) -> None:
        self._socket = socket
        self._session = session
        self._numbers = itertools.count(10)
        self.troubles: list[str] = []
        self.asked: list[str] = []

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one DevTools command and give its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, "sessionId": self._session}
        await self._socket.send(json.dumps(message))
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = json.loads(await self._socket.recv())
                if answer.get("id") == number:
                    if "error" in answer:
                        raise PageMoved(answer)
                    result: dict[str, Any] = answer["result"]
                    return result
                self._note(answer)

    async def value(self, expression: str) -> Any:
        """Evaluate JavaScript in the page and give the value."""
        answer = await self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true; a page that is being loaded is asked again."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self._holds(expression):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.03)

    async def open(self, url: str) -> None:
        """Go to an address and wait until the page and its scripts are there."""
        await self.value("window.isBeforeOpening = true")
        await self.command("Page.navigate", url=url)
        await self.until("!window.isBeforeOpening && document.readyState === 'complete'")

    async def fill(self, **fields: str) -> None:
        """Write into fields, by their ids."""
        for name, text in fields.items():
            await self.value(f"document.getElementById({json.dumps(name)}).value = {json.dumps(text)}")

    async def click(self, selector: str) -> None:
        """Click the first element that fits."""
        await self.value(f"document.querySelector({json.dumps(selector)}).click()")

    async def text(self, selector: str) -> str:
        """Give an element's text."""
        return str(await self.value(f"document.querySelector({json.dumps(selector)}).textContent"))

    async def _holds(self, expression: str) -> bool:
        try:
            return bool(await self.value(f"Boolean({expression})"))
        except PageMoved:
            return False

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.troubles.append(json.dumps(event["params"]["exceptionDetails"])[:500])
        elif event.get("method") == "Network.requestWillBeSent":
            self.asked.append(event["params"]["request"]["url"])


@asynccontextmanager
async def run_chromium(program: str) -> AsyncIterator[BrowserPage]:
    """Run a browser with a profile of its own and give its one page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            [
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--lang=en-US",
                "--remote-debugging-port=0",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            async with connect(await _address(Path(profile)), max_size=None, proxy=None) as socket:
                yield await _attach(socket)
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 10)


async def _address(profile: Path) -> str:
    file = profile / "DevToolsActivePort"
    async with asyncio.timeout(START_DEADLINE_S):
        while not file.exists() or len(file.read_text().splitlines()) < 2:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    port, path = file.read_text().splitlines()[:2]
    return f"ws://127.0.0.1:{port}{path}"


async def _attach(socket: ClientConnection) -> BrowserPage:
    async def ask(number: int, method: str, **parameters: Any) -> dict[str, Any]:
        await socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = json.loads(await socket.recv())
                if answer.get("id") == number:
                    result: dict[str, Any] = answer["result"]
                    return result

    targets = (await ask(1, "Target.getTargets"))["targetInfos"]
    target = next(info["targetId"] for info in targets if info["type"] == "page")
    session = (await ask(2, "Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
    page = BrowserPage(socket, session)
    for domain in ("Page", "Runtime", "Network"):
        await page.command(f"{domain}.enable")
    return page
