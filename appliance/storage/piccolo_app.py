"""Piccolo's view of this package: its tables and where the migrations are."""

from pathlib import Path

from piccolo.conf.apps import AppConfig

from appliance.storage.tables import TABLES

APP_CONFIG = AppConfig(
    app_name="carillon",
    migrations_folder_path=str(Path(__file__).parent / "migrations"),
    table_classes=TABLES,
    migration_dependencies=[],
)
