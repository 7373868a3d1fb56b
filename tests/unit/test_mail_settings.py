"""Settings of the mail server: what makes no sense stops the start, and a password is never set to travel in clear."""

import pytest

from appliance.settings import SettingsError, load_settings

GOOD = {
    "SMTP_HOST": "mail.example.org",
    "SMTP_USER": "carillon",
    "SMTP_PASSWORD": "a-password-of-some-length",
    "SMTP_FROM": "Roster <push@example.org>",
}


def load(tmp_path, **changes):
    return load_settings(tmp_path, {**GOOD, **changes})


def test_whole_settings_are_taken(tmp_path):
    settings = load(tmp_path, SMTP_PORT="2525", SMTP_SECURITY="TLS")
    assert (settings.smtp_port, settings.smtp_security, settings.smtp_from) == (2525, "tls", GOOD["SMTP_FROM"])
    assert GOOD["SMTP_PASSWORD"] not in repr(settings)


def test_an_open_server_needs_no_account(tmp_path):
    assert load(tmp_path, SMTP_USER="", SMTP_PASSWORD="", SMTP_SECURITY="none").smtp_security == "none"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"SMTP_SECURITY": "none"}, "in clear"),
        ({"SMTP_SECURITY": "ssl"}, "starttls, tls, none"),
        ({"SMTP_PASSWORD": ""}, "SMTP_USER and SMTP_PASSWORD"),
        ({"SMTP_USER": ""}, "SMTP_USER and SMTP_PASSWORD"),
        ({"SMTP_FROM": ""}, "SMTP_FROM"),
        ({"SMTP_FROM": "Roster"}, "SMTP_FROM"),
        ({"SMTP_FROM": "Roster\n<push@example.org>"}, "SMTP_FROM"),
        ({"SMTP_HOST": "smtp://mail.example.org"}, "SMTP_HOST"),
        ({"SMTP_HOST": "mail.example.org\r\nX"}, "SMTP_HOST"),
        ({"SMTP_PORT": "0"}, "SMTP_PORT"),
        ({"SMTP_PORT": "mail"}, "SMTP_PORT"),
    ],
)
def test_what_makes_no_sense_is_told_by_name_and_without_the_password(tmp_path, changes, told):
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, **changes)
    assert told in str(refused.value)
    assert GOOD["SMTP_PASSWORD"] not in str(refused.value)
