"""The key pairs with which apps prove themselves to push services: made with the app's push, opened when needed."""

from uuid import UUID

from appliance.channels.webpush import VapidKey
from appliance.delivery.app_keys import open_vapid_private_key
from appliance.security.sealing import Sealer
from appliance.storage.app_config import load_vapid_key
from appliance.storage.database import Database


class StoredVapidKeys:
    """Reads an app's key pair from the database; whoever uses it keeps it."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def vapid_key_of(self, app_id: UUID) -> VapidKey | None:
        """Give the pair, None for an app whose push was never enabled. Raises `SealError`."""
        stored = await load_vapid_key(self._database, app_id)
        if stored is None:
            return None
        return VapidKey(open_vapid_private_key(self._sealer, stored.private_key_sealed), stored.public_key)
