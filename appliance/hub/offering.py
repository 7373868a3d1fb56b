"""What becomes of a notification that a connection is offered: it is sent, held back behind a replay, or refused."""

from typing import TYPE_CHECKING
from uuid import UUID

from appliance.hub import calls
from appliance.hub.messages import EncodedNotification
from appliance.hub.order import Place, SentOrder
from appliance.hub.replay import HISTORY_PASSED
from appliance.hub.session import Session

if TYPE_CHECKING:
    from appliance.hub.connection import Connection


def offer(connection: "Connection", device_id: UUID, notification: EncodedNotification) -> None:
    """Send to the session, or hold back behind its replay; what cannot be taken is reported as cut."""
    session = connection.session
    if session is None:
        connection.report_cut(device_id, [notification.id], "disconnected")
    elif session.order is not None:
        _offer_in_order(connection, session, session.order, notification)
    elif session.replay is None:
        _offer_live(connection, session, notification)
    else:
        _hold(connection, session, notification)


def _offer_live(connection: "Connection", session: Session, notification: EncodedNotification) -> None:
    if not session.is_behind_history(notification.envelope.sequence):
        connection.send_full(session, notification, is_measured=True)
    elif not session.was_in_history(notification.id):
        # Sending it now would break the order, on which the client's cursor rests (see hub.replay).
        connection.report_cut(session.device_id, [notification.id], HISTORY_PASSED)


def _offer_in_order(
    connection: "Connection", session: Session, order: SentOrder, notification: EncodedNotification
) -> None:
    sequence = notification.envelope.sequence
    place = order.place(sequence, notification.id)
    if place is Place.PASSED:
        connection.report_cut(session.device_id, [notification.id], HISTORY_PASSED)
    if place in (Place.PASSED, Place.SENT):
        return
    if place is Place.GAP and session.replay is None:
        calls.catch_up(connection, session)
    if session.replay is None:
        order.note_sent(sequence, notification.id)
        connection.send_full(session, notification, is_measured=True)
    else:
        _hold(connection, session, notification)


def _hold(connection: "Connection", session: Session, notification: EncodedNotification) -> None:
    if session.replay is not None and not session.replay.hold(notification):
        connection.report_cut(session.device_id, [notification.id], "replay_overflow")
