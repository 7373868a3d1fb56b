"""Letting sessions catch up with what was released on other nodes while this one could not hear them.

One query asks for the newest numbers of hundreds of users at once; only sessions that lag behind load anything.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from appliance.hub import calls
from appliance.hub.core import HubCore

if TYPE_CHECKING:
    from appliance.hub.connection import Connection

PAGE: Final = 200


async def resync(core: HubCore) -> int:
    """Make each session that lags behind its user's newest number load what lies between; gives how many did.

    A session whose device was revoked meanwhile finds that out, too, and ends. Raises what the layers above raise, and
    `TimeoutError`; what was begun by then goes on.
    """
    lagging = 0
    seated = core.presence.list_devices()
    for start in range(0, len(seated), PAGE):
        lagging += await _resync_page(core, [connection for _, connection in seated[start : start + PAGE]])
    return lagging


async def _resync_page(core: HubCore, connections: "list[Connection]") -> int:
    sessions = [(connection, connection.session) for connection in connections]
    device_ids = [session.device_id for _, session in sessions if session is not None]
    async with asyncio.timeout(core.limits.backend_deadline_s):
        newest = await core.backend.load_newest(device_ids)
    lagging = 0
    for connection, session in sessions:
        if session is None or session is not connection.session or session.order is None:
            continue
        user_id, number = newest.get(session.device_id, (None, 0))
        if user_id == connection.user_id and number <= session.order.reached:
            continue
        calls.catch_up(connection, session)
        lagging += 1
    return lagging
