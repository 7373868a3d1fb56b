"""Letting an app send, from the command line."""

from uuid import UUID

from appliance.api.identity.service import Identity
from appliance.delivery.app_keys import make_app_keys
from appliance.security.sealing import Sealer
from appliance.settings import Settings
from appliance.storage.app_config import ConfigChange, change_push_config_job


async def switch_push_on(identity: Identity, settings: Settings, app_id: UUID) -> None:
    """Let the app send; it gets the keys that it lacks. Twice is harmless."""
    sealer = Sealer(settings.secret_key, [settings.secret_key_previous] if settings.secret_key_previous else [])
    change = ConfigChange([("push_enabled", True)], make_app_keys(sealer))
    now = identity.clock.now()
    await identity.database.write(change_push_config_job(app_id, change, actor="cli", address="", now=now))
