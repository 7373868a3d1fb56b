"""Mailboxes: planning what is mailed within the transaction that accepts it, and who wants no e-mail of an app."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from appliance.domain.identifier import make_id
from appliance.domain.ladder import DeliveryState
from appliance.domain.mailbox import FIRST_LOOK, EmailPolicy, is_mailable, mailbox_key
from appliance.storage.database import Database
from appliance.storage.sql import marks, uuid_of
from appliance.storage.writer import Job, Transaction


@dataclass(frozen=True, slots=True)
class MailRules:
    """What an app says of e-mail: to which address of its own, and when."""

    address: str | None
    policy: EmailPolicy


@dataclass(frozen=True, slots=True)
class Mailable:
    """A notification that is being released; `asked` is the word of its sender on e-mail."""

    notification_id: UUID
    user_id: UUID
    released_at: datetime
    expires_at: datetime
    asked: bool | None
    has_devices: bool


def plan_mails(transaction: Transaction, rules: MailRules, mailables: Sequence[Mailable]) -> dict[UUID, datetime]:
    """Write the deliveries to mailboxes and give when each is first due, by notification.

    To the app's address, else to the user's own, verified one; to that only where the app mails what is not confirmed,
    or the sender asked. What is for live connections only is not mailed.
    """
    wanted = [one for one in mailables if _is_wanted(one, rules)]
    if not wanted:
        return {}
    addresses = _addresses(transaction, rules, [one.user_id for one in wanted])
    mailboxes = _load_or_add(transaction, sorted(set(addresses.values())), wanted[0].released_at)
    rows: list[tuple[object, ...]] = []
    due: dict[UUID, datetime] = {}
    for one in wanted:
        address = addresses.get(one.user_id)
        if address is None:
            continue
        waits = one.asked is None and rules.policy is EmailPolicy.IF_UNCONFIRMED
        due_at = min(one.expires_at, one.released_at + FIRST_LOOK) if waits and one.has_devices else one.released_at
        due[one.notification_id] = due_at
        rows.append(
            (
                make_id(one.released_at),
                one.notification_id,
                mailboxes[address],
                one.user_id,
                DeliveryState.QUEUED,
                0,
                due_at,
                one.expires_at,
                waits,
            )
        )
    if rows:
        transaction.execute_many(
            'INSERT INTO delivery (id, notification, mailbox, "user", state, attempts, due_at, expires_at, '
            "if_unconfirmed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
    return due


def _is_wanted(one: Mailable, rules: MailRules) -> bool:
    if one.asked is False or one.expires_at <= one.released_at:
        return False
    if one.asked is True:
        return True
    if rules.policy is EmailPolicy.ALWAYS:
        return rules.address is not None
    return rules.policy is EmailPolicy.IF_UNCONFIRMED


def _addresses(transaction: Transaction, rules: MailRules, user_ids: Sequence[UUID]) -> Mapping[UUID, str]:
    """Give each user's mailbox: the app's, or the user's own."""
    if rules.address is not None:
        return dict.fromkeys(user_ids, mailbox_key(rules.address))
    rows = transaction.fetch_all(
        f"SELECT id, email FROM account WHERE id IN ({marks(len(user_ids))}) "
        "AND email IS NOT NULL AND email_verified_at IS NOT NULL",
        list(user_ids),
    )
    return {uuid_of(row[0]): mailbox_key(row[1]) for row in rows if is_mailable(row[1])}


def _load_or_add(transaction: Transaction, addresses: Sequence[str], now: datetime) -> dict[str, UUID]:
    if not addresses:
        return {}
    rows = transaction.fetch_all(
        f"SELECT address, id FROM mailbox WHERE address IN ({marks(len(addresses))})", addresses
    )
    known = {str(row[0]): uuid_of(row[1]) for row in rows}
    for address in addresses:
        if address not in known:
            # Nodes take turns at writing, so nobody has added it meanwhile.
            known[address] = make_id(now)
            transaction.execute(
                "INSERT INTO mailbox (id, address, gathered, created_at) VALUES (?, ?, 0, ?)",
                (known[address], address, now),
            )
    return known


def mute_job(mailbox_id: UUID, app_ids: Sequence[UUID], now: datetime) -> Job[bool]:
    """Make the job that ends e-mail of the apps to a mailbox; repeating it is harmless. False: no such mailbox."""

    def job(transaction: Transaction) -> bool:
        if transaction.fetch_one("SELECT 1 FROM mailbox WHERE id = ?", (mailbox_id,)) is None:
            return False
        for app_id in app_ids:
            transaction.execute(
                "INSERT INTO mailbox_mute (id, muted_at) VALUES (?, ?) ON CONFLICT (id) DO NOTHING",
                (mute_id(mailbox_id, app_id), now),
            )
        return True

    return job


def unmute_job(mailbox_id: UUID, app_ids: Sequence[UUID]) -> Job[int]:
    """Make the job that lets the apps mail to a mailbox again; gives how many had been switched off."""

    def job(transaction: Transaction) -> int:
        ids = [mute_id(mailbox_id, app_id) for app_id in app_ids]
        return transaction.execute(f"DELETE FROM mailbox_mute WHERE id IN ({marks(len(ids))})", ids)

    return job


def mute_id(mailbox_id: UUID, app_id: UUID) -> str:
    """Give the id under which it is kept that a mailbox wants no e-mail of an app."""
    return f"{mailbox_id}|{app_id}"


async def load_app_names(database: Database, app_ids: Sequence[UUID]) -> list[str]:
    """Read the names of those of the apps that there are, in their order."""
    rows = await database.read(f"SELECT id, name FROM app WHERE id IN ({marks(len(app_ids))})", tuple(app_ids))
    names = {uuid_of(row[0]): str(row[1]) for row in rows}
    return [names[app_id] for app_id in app_ids if app_id in names]
