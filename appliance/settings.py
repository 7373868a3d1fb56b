"""Typed settings: one documented field for each variable.

Precedence: process environment (`NAME`, or `NAME_FILE` naming a file that holds the value) over the `.env` in the data
folder over the default. A value that cannot be understood stops the start with the name, the value's fault and the fix.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from email.utils import parseaddr
from enum import IntEnum
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

from appliance.domain.mailbox import is_mailable
from appliance.domain.secret import Secret

ENV_FILE = ".env"
_NO_SECRET = Secret("")


class DeliveryMode(IntEnum):
    """How remote pushes leave. Stored as the number where an app overrides it."""

    LOCAL = 0
    RELAY = 1
    FIREBASE = 2


class SettingsError(ValueError):
    """A setting cannot be understood; the text names it and says the fix."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set from outside. Each field's name in upper case is its variable."""

    data_dir: Path
    """Folder that holds the database, the keys and `.env`. Mode 700."""
    secret_key: Secret
    """At least 32 characters; seals what is secret at rest. Made on first start and kept in `.env`."""
    secret_key_previous: Secret
    """The key before the last rotation: still opens what it sealed."""
    host: str = "0.0.0.0"  # noqa: S104 - phones must reach it
    """Address to listen on."""
    port: int = 8480
    """TCP port to listen on."""
    public_url: str = ""
    """Address under which people and phones reach this server, without a path, e.g. https://push.example.org."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of reverse proxies whose X-Forwarded-* headers count, separated by commas; * for all."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may use the API and the hub from a browser, such as https://app.example.org, or * for all."""
    tls_cert: Path | None = None
    """PEM file with the certificate chain; with `tls_key` the server speaks https itself."""
    tls_key: Path | None = None
    """PEM file with the certificate's private key."""
    database_url: Secret = _NO_SECRET
    """postgresql://… ; SQLite in the data folder when unset."""
    redis_url: Secret = _NO_SECRET
    """redis://…, rediss://… or unix://… ; joins several nodes over one PostgreSQL to one hub."""
    delivery_mode: DeliveryMode = DeliveryMode.LOCAL
    """relay, firebase or local: how remote pushes leave the house."""
    push_relay_url: str = "https://push.open-ksef.pl"
    """The relay through which remote pushes go in mode relay."""
    push_relay_api_key: Secret = _NO_SECRET
    """The key that the relay gave this instance when it registered."""
    push_relay_instance_id: str = ""
    """The id that it gave with the key; empty where the key is the relay's one key for everybody."""
    firebase_credentials_json: Secret = _NO_SECRET
    """The key file of a Firebase service account, as Google's console gives it, for FCM in mode firebase."""
    fcm_base_url: str = "https://fcm.googleapis.com"
    """The server of FCM."""
    fcm_android_channel: str = ""
    """The notification channel that alerts use on Android; the app's default channel when unset."""
    apns_bundle_id: str = "com.openksef.mobile"
    """The iOS app that pushes are for (APNs topic), in mode firebase."""
    apns_voip_topic: str = ""
    """The topic of calls; the bundle id with .voip when unset."""
    apns_base_url: str = "https://api.push.apple.com"
    """Apple's server; for builds from Xcode https://api.sandbox.push.apple.com."""
    apns_sandbox_base_url: str = "https://api.sandbox.push.apple.com"
    """Apple's server for apps whose own credential is for the sandbox."""
    apns_key_id: str = ""
    """The ten characters that name the authentication key."""
    apns_team_id: str = ""
    """The ten characters that name the developer team."""
    apns_auth_key_p8: Secret = _NO_SECRET
    """The authentication key: the .p8 file's text."""
    apns_certificate: str = ""
    """A push certificate instead of the key: PEM, chain allowed."""
    apns_certificate_key: Secret = _NO_SECRET
    """The certificate's private key: PEM without a passphrase."""
    vapid_subject: str = ""
    """Whom push services of browsers write to about this server: mailto:you@your.domain or an https URL. PUBLIC_URL
    stands in for it."""
    smtp_host: str = ""
    """The mail server that takes this server's e-mail, by name or address; without it no e-mail is sent."""
    smtp_port: int | None = None
    """Its TCP port. Unset: 587 for starttls, 465 for tls, 25 for none."""
    smtp_security: str = "starttls"
    """starttls, tls (from the first byte) or none; with none no user may be set: a password never goes in clear."""
    smtp_user: str = ""
    """The account at the mail server; empty where it takes mail from this machine without one."""
    smtp_password: Secret = _NO_SECRET
    """The account's password."""
    smtp_from: str = ""
    """The sender of every e-mail: push@example.org, or Roster <push@example.org>. Needed with `smtp_host`."""
    push_max_batch_size: int = 500
    """Most targets of one bulk or batch send, 1 to 5000."""
    access_token_minutes: int = 30
    """Lifetime of a user's access token in minutes, 1 to 1440. App tokens live an hour."""
    refresh_token_days: int = 60
    """Lifetime of a refresh token in days, 1 to 365."""
    retention_days: int = 30
    """How long notifications stay readable in the inbox, in days, 1 to 3650."""
    hub_max_connections: int = 10_000
    """Most hub connections at once; one more gets 503 with Retry-After."""
    hub_max_connections_per_user: int = 2_000
    """Most hub connections of one user."""
    hub_max_connections_per_address: int = 2_000
    """Most hub connections from one network address (an IPv6 /64), for instance an office behind one router."""
    hub_listener: str = "granian"
    """granian: hub clients are served on PORT only. lean: on HUB_PORT too, at a small part of the memory each."""
    hub_port: int | None = None
    """TCP port of the lean listener; 0 = one that is free. Unset: the port after PORT."""
    hub_public_url: str = ""
    """Address under which clients reach the lean listener, without a path; with it they are sent there from PORT."""
    http_backlog: int = 4096
    """Most TCP connections that wait to be accepted."""
    http_max_connections: int = 16_384
    """Most HTTP connections that are open at once, idle ones too; WebSockets do not count. Fewer where the limit of
    open files leaves fewer beside `hub_max_connections`."""
    http_max_connections_per_address: int = 2_048
    """Most of those from one network address (an IPv6 /64), and most requests of one address under way; trusted proxies
    and the hub apart."""
    http_head_timeout_s: int = 15
    """Seconds until a request's head must have arrived; so long an idle connection is kept, too."""
    runtime_threads: int = 0
    """Threads of the HTTP runtime; 0 = two, or one on a single core."""
    oidc_issuer: str = ""
    """https URL of an OpenID Connect issuer whose tokens are accepted as users."""
    oidc_audience: str = ""
    """The audience those tokens must name. Needed with `oidc_issuer`."""
    outbound_allow: tuple[str, ...] = ()
    """Private networks, hosts or host:port pairs that outbound requests may reach, separated by commas."""
    log_format: str = "text"
    """text or json."""
    log_level: str = "info"
    """debug, info, warning or error."""

    @property
    def is_https(self) -> bool:
        return self.tls_cert is not None or self.public_url.startswith("https://")


_LIMITS = {
    "port": (1, 65_535),
    "push_max_batch_size": (1, 5_000),
    "access_token_minutes": (1, 1_440),
    "refresh_token_days": (1, 365),
    "retention_days": (1, 3_650),
    "hub_max_connections": (1, 1_000_000),
    "hub_max_connections_per_user": (1, 1_000_000),
    "hub_max_connections_per_address": (1, 1_000_000),
    "hub_port": (0, 65_535),
    "smtp_port": (1, 65_535),
    "http_backlog": (64, 65_535),
    "http_max_connections": (64, 1_000_000),
    "http_max_connections_per_address": (8, 1_000_000),
    "http_head_timeout_s": (1, 300),
    "runtime_threads": (0, 64),
}
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s?#*]+")
_HOST = re.compile(r"[A-Za-z0-9_.:-]{1,253}")
_CHOICES = {
    "hub_listener": ("granian", "lean"),
    "smtp_security": ("starttls", "tls", "none"),
    "log_format": ("text", "json"),
    "log_level": ("debug", "info", "warning", "error"),
}
_THIS_MACHINE = ("127.0.0.1", "::1", "localhost")
MIN_SECRET_KEY_CHARS = 32


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Give the data folder when none is named: /var/lib/carillon for root, else the user's own data folder."""
    if os.geteuid() == 0:
        return Path("/var/lib/carillon")
    home = environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(home) / "carillon"


def load_settings(data_dir: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read all settings. Raises `SettingsError`, which names the variable and the fix."""
    environ = os.environ if environ is None else environ
    folder = data_dir or (Path(environ["DATA_DIR"]) if environ.get("DATA_DIR") else default_data_dir(environ))
    folder = folder.expanduser().absolute()
    kept = read_env_file(folder / ENV_FILE)
    values: dict[str, object] = {"data_dir": folder}
    for field in fields(Settings):
        if field.name == "data_dir":
            continue
        text = _value_of(field.name.upper(), environ, kept)
        if text is None:
            continue
        values[field.name] = _parse(field.name, str(field.type), text)
    values.setdefault("secret_key", Secret(""))
    values.setdefault("secret_key_previous", Secret(""))
    settings = Settings(**values)  # type: ignore[arg-type]
    _check_together(settings)
    return settings


def read_env_file(path: Path) -> dict[str, str]:
    """Read `NAME=value` lines; values may be in single or double quotes. A missing file is empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}. Check its owner and mode.") from error
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name = name.removeprefix("export ").strip()
        if not equals or not name.isidentifier():
            raise SettingsError(f"{path}, line {number}: write it as NAME=value.")
        values[name.upper()] = _unquote(value.strip())
    return values


def _unquote(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == "'":
        return value[1:-1]
    if len(value) >= 2 and value[0] == value[-1] == '"':
        plain: list[str] = []
        characters = iter(value[1:-1])
        for character in characters:
            if character == "\\":
                following = next(characters, "\\")
                plain.append({"n": "\n", "r": "\r"}.get(following, following))
            else:
                plain.append(character)
        return "".join(plain)
    return value


def _value_of(name: str, environ: Mapping[str, str], kept: Mapping[str, str]) -> str | None:
    if (given := environ.get(name)) is not None and given != "":
        return given
    if file := environ.get(f"{name}_FILE"):
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{name}_FILE names {file}, which cannot be read: {error}.") from error
    value = kept.get(name)
    return None if value == "" else value


def _parse(name: str, kind: str, text: str) -> object:
    variable = name.upper()
    if "Secret" in kind:
        return Secret(text)
    if "DeliveryMode" in kind:
        try:
            return DeliveryMode[text.upper()]
        except KeyError:
            raise SettingsError(f"{variable} is {text!r}: choose relay, firebase or local.") from None
    if "int" in kind:
        return _parse_number(name, text)
    if "tuple" in kind:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if "Path" in kind:
        return Path(text).expanduser()
    if name in _CHOICES and text.lower() not in _CHOICES[name]:
        raise SettingsError(f"{variable} is {text!r}: choose {', '.join(_CHOICES[name])}.")
    return text.lower() if name in _CHOICES else text


def _parse_number(name: str, text: str) -> int:
    least, most = _LIMITS[name]
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise SettingsError(f"{name.upper()} is {text!r}: give a whole number from {least} to {most}.")
    return number


def _check_together(settings: Settings) -> None:
    if settings.secret_key and len(settings.secret_key.reveal()) < MIN_SECRET_KEY_CHARS:
        raise SettingsError(f"SECRET_KEY is too short: give at least {MIN_SECRET_KEY_CHARS} characters.")
    for origin in settings.cors_origins:
        if origin != "*" and _ORIGIN.fullmatch(origin) is None:
            raise SettingsError(f"CORS_ORIGINS names {origin!r}: write scheme://host[:port], without a path.")
    for proxy in settings.trusted_proxies:
        if proxy != "*" and not _is_network(proxy):
            raise SettingsError(f"TRUSTED_PROXIES names {proxy!r}: give addresses or networks, such as 10.0.0.0/8.")
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise SettingsError("TLS_CERT and TLS_KEY go together: set both or neither.")
    if bool(settings.oidc_issuer) != bool(settings.oidc_audience):
        raise SettingsError("OIDC_ISSUER and OIDC_AUDIENCE go together: set both or neither.")
    if settings.public_url and not settings.public_url.startswith(("http://", "https://")):
        raise SettingsError(f"PUBLIC_URL is {settings.public_url!r}: begin it with http:// or https://.")
    if settings.hub_public_url and not settings.hub_public_url.startswith(("http://", "https://")):
        raise SettingsError(f"HUB_PUBLIC_URL is {settings.hub_public_url!r}: begin it with http:// or https://.")
    if settings.hub_public_url and settings.hub_listener != "lean":
        raise SettingsError("HUB_PUBLIC_URL is the address of the lean listener: set HUB_LISTENER=lean, too.")
    _check_providers(settings)
    _check_smtp(settings)
    url = settings.database_url.reveal()
    if url and not url.startswith(("postgresql://", "postgres://")):
        raise SettingsError("DATABASE_URL: give postgresql://…, or leave it out for SQLite.")
    redis_url = settings.redis_url.reveal()
    if redis_url and not redis_url.startswith(("redis://", "rediss://", "unix://")):
        raise SettingsError("REDIS_URL: give redis://…, rediss://… or unix://…, or leave it out for a single node.")
    if redis_url and not url:
        raise SettingsError("REDIS_URL is for several nodes, which share one PostgreSQL: set DATABASE_URL, too.")


def _check_providers(settings: Settings) -> None:
    for name in ("fcm_base_url", "apns_base_url", "apns_sandbox_base_url"):
        if not _names_server(getattr(settings, name)):
            raise SettingsError(
                f"{name.upper()} is {getattr(settings, name)!r}: give https:// and a host, and a port if it needs one."
            )
    if bool(settings.apns_certificate) != bool(settings.apns_certificate_key):
        raise SettingsError("APNS_CERTIFICATE and APNS_CERTIFICATE_KEY go together: set both or neither.")
    if settings.apns_certificate and settings.apns_auth_key_p8:
        raise SettingsError("APNS_AUTH_KEY_P8 and APNS_CERTIFICATE are two ways for one thing: set one of them.")


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _names_server(text: str) -> bool:
    """Tell whether it is an https URL of a server and no more; without TLS only on this very machine."""
    try:
        url = urlsplit(text)
        has_port = url.port is None or url.port > 0
    except ValueError:
        return False
    is_safe = url.scheme == "https" or (url.scheme == "http" and url.hostname in _THIS_MACHINE)
    is_bare = url.path in ("", "/") and not url.query and not url.fragment and url.username is None
    return is_safe and is_bare and has_port and bool(url.hostname) and text.isascii()


def _check_smtp(settings: Settings) -> None:
    if not settings.smtp_host:
        return
    if not is_mailable(parseaddr(settings.smtp_from)[1]):
        raise SettingsError(
            "SMTP_FROM is the sender of every e-mail: give push@example.org or Name <push@example.org>."
        )
    if not settings.smtp_from.isprintable():
        raise SettingsError("SMTP_FROM holds characters that no header can carry: write it on one line.")
    if bool(settings.smtp_user) != bool(settings.smtp_password.reveal()):
        raise SettingsError("SMTP_USER and SMTP_PASSWORD go together: set both or neither.")
    if settings.smtp_user and settings.smtp_security == "none":
        raise SettingsError(
            "SMTP_SECURITY is none and SMTP_USER is set: the password would travel in clear. Choose starttls or tls."
        )
    if _HOST.fullmatch(settings.smtp_host) is None:
        raise SettingsError("SMTP_HOST: give a name or an address, without scheme and port.")
