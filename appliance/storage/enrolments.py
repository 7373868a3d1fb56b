"""Who may be sent to: enabled users who are enrolled in an app."""

from collections.abc import Collection
from uuid import UUID

from appliance.storage.apps import enrolment_id
from appliance.storage.database import Database
from appliance.storage.sql import marks, uuid_of


async def load_enrolled(database: Database, app_id: UUID, user_ids: Collection[UUID]) -> set[UUID]:
    """Give those of the users who are enrolled in the app and not disabled; at most a batch at a time."""
    if not user_ids:
        return set()
    rows = await database.read(
        'SELECT e."user" FROM enrolment e JOIN account u ON u.id = e."user" '
        f"WHERE e.id IN ({marks(len(user_ids))}) AND u.disabled_at IS NULL",
        [enrolment_id(user_id, app_id) for user_id in user_ids],
    )
    return {uuid_of(row[0]) for row in rows}
