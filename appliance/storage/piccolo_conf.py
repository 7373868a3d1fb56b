"""Where Piccolo looks for its database and apps. `storage.upgrade` puts the opened engine into `DB`."""

from typing import Any

from piccolo.conf.apps import AppRegistry

DB: Any = None

APP_REGISTRY = AppRegistry(apps=["appliance.storage.piccolo_app"])
