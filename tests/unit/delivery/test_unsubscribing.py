"""Links that end e-mail: signed, for what they name and nothing else, good over a rotation of the key."""

import base64
from uuid import UUID

import pytest

from appliance.delivery.unsubscribing import MOST_APPS, UnsubscribeLinks, Unsubscription
from appliance.domain.secret import Secret
from appliance.security.sealing import Sealer

MAILBOX, APP, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)
OLD, NEW = Secret("old-" * 12), Secret("new-" * 12)


@pytest.fixture
def links():
    return UnsubscribeLinks(Sealer(OLD), "https://push.example.org/")


def test_a_link_says_what_was_put_into_it_and_is_the_same_each_time(links):
    url = links.make_url(MAILBOX, [APP, OTHER])
    assert url == links.make_url(MAILBOX, [APP, OTHER])
    assert url.startswith("https://push.example.org/unsubscribe/")
    assert links.read(url.rpartition("/")[2]) == Unsubscription(MAILBOX, (APP, OTHER))


def test_without_a_public_address_there_is_no_link():
    assert UnsubscribeLinks(Sealer(OLD), "").make_url(MAILBOX, [APP]) is None


def test_a_link_names_so_many_apps_at_most_and_still_works(links):
    token = links.make_token(MAILBOX, [UUID(int=number) for number in range(1, 30)])
    assert len(links.read(token).app_ids) == MOST_APPS


def test_a_link_from_before_a_rotation_works_and_one_of_another_server_does_not(links):
    token = links.make_token(MAILBOX, [APP])
    assert UnsubscribeLinks(Sealer(NEW, [OLD]), "").read(token) == Unsubscription(MAILBOX, (APP,))
    assert UnsubscribeLinks(Sealer(NEW), "").read(token) is None


def test_no_byte_of_a_token_can_be_changed(links):
    token = links.make_token(MAILBOX, [APP])
    blob = base64.urlsafe_b64decode(token)
    for position in range(len(blob)):
        changed = blob[:position] + bytes([blob[position] ^ 1]) + blob[position + 1 :]
        assert links.read(base64.urlsafe_b64encode(changed).decode()) is None
    for length in range(len(blob)):
        assert links.read(base64.urlsafe_b64encode(blob[:length]).decode()) is None
    two = links.make_token(MAILBOX, [APP, OTHER])
    assert links.read(two[: len(token)]) is None


@pytest.mark.parametrize("token", ["", "x", "====", "ż" * 64, "A" * 64, "A" * 10_000, "../../etc", "A b", "\0"])
def test_what_is_no_token_is_refused_without_a_fuss(links, token):
    assert links.read(token) is None
