"""An app's own credentials, for admins: PUT, GET and DELETE /push/config/{app_id}/credentials/fcm and …/apns.

What is secret goes in and never comes out again.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from litestar import Request, delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp
from msgspec import Meta

from appliance.api.authentication import address_of
from appliance.api.identity.changes import user_target
from appliance.api.json_body import JsonBody
from appliance.api.operations import Access, Operation, Success, described
from appliance.api.push.access import admin_of
from appliance.api.replies import Reply, empty_reply, json_reply
from appliance.channels.apns_credential import ApnsCertificate, ApnsKey
from appliance.channels.own_credential import ApnsDocument, Environment, FcmDocument
from appliance.delivery.app_credentials import AppCredentials, Author, ShownCredential
from appliance.domain.device import AddressKind
from appliance.domain.errors import InvalidField
from appliance.domain.secret import Secret

LIMIT_BYTES: Final = 64 * 1024
TOPIC: Final = r"^[A-Za-z0-9.-]{1,200}$"
_TOPIC: Final = re.compile(TOPIC)
_Topic = Annotated[str, Meta(extra_json_schema={"pattern": TOPIC})]
_Ten = Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Za-z0-9]{10}$"})]


class FcmCredential(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Firebase project of the app's own."""

    service_account: Annotated[
        dict[str, object], Meta(description="The service account's key file as the Firebase console gives it.")
    ]


class ApnsAuthKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An authentication key with its two ids, as Apple's developer site shows them."""

    p8: Annotated[str, Meta(description="The .p8 file's text.")]
    key_id: _Ten
    team_id: _Ten


class ApnsPushCertificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A push certificate and its private key, both PEM."""

    certificate: Annotated[str, Meta(description="PEM; the chain may follow.")]
    private_key: Annotated[str, Meta(description="PEM without a passphrase.")]


class ApnsCredential(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key or a certificate, one of the two, for the app's own iOS app."""

    topic: Annotated[_Topic, Meta(description="The iOS app's bundle id.")]
    environment: Annotated[
        Environment,
        Meta(description="Which of Apple's two servers knows the app's tokens; sandbox: builds from Xcode."),
    ] = "production"
    voip_topic: Annotated[_Topic | None, Meta(description="The topic of calls; left out: the topic with .voip.")] = None
    auth_key: ApnsAuthKey | None = None
    certificate: ApnsPushCertificate | None = None


class FcmCredentialView(msgspec.Struct, frozen=True):
    """What is shown of a service account; `fingerprint` is the SHA-256 of its public key (DER), in hex."""

    project_id: str
    client_email: str
    private_key_id: str
    fingerprint: str
    changed_at: datetime


class ApnsCredentialView(msgspec.Struct, frozen=True):
    """What is shown of a key (its ids) or a certificate (subject, expiry); `fingerprint` is of the public key."""

    topic: str
    voip_topic: str | None
    environment: Environment
    fingerprint: str
    key_id: str | None
    team_id: str | None
    certificate_subject: str | None
    certificate_expires_at: datetime | None
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class _Face:
    """One push service: how it is called in paths and texts, and what goes in and out."""

    name: str
    title: str
    kind: AddressKind
    body: Any
    view: Any


_FCM: Final = _Face("fcm", "FCM", AddressKind.FCM_TOKEN, FcmCredential, FcmCredentialView)
_APNS: Final = _Face("apns", "APNs", AddressKind.APNS_TOKEN, ApnsCredential, ApnsCredentialView)


def credential_handlers(credentials: AppCredentials) -> list[HTTPRouteHandler]:
    """Give the handlers of the six routes."""
    return [make(credentials, face) for face in (_FCM, _APNS) for make in (_get_handler, _put_handler, _delete_handler)]


def _get_handler(credentials: AppCredentials, face: _Face) -> HTTPRouteHandler:
    operation = Operation(
        tag="Push",
        summary=f"See an app's own credential for {face.title}",
        access=(Access.ADMIN,),
        success={200: Success("What may be shown of it; nothing secret.", face.view)},
    )

    async def push_credential(request: Request[Any, Any, Any], app_id: UUID) -> ASGIApp:
        """Show which credential of its own the app has. 404: none, then the instance's is used, if there is one."""
        admin_of(request)
        return _reply(face, await credentials.show(app_id, face.kind))

    return get(_path(face), opt=described(operation))(_named(push_credential, face))


def _put_handler(credentials: AppCredentials, face: _Face) -> HTTPRouteHandler:
    read = JsonBody(face.body, limit_bytes=LIMIT_BYTES).read
    operation = Operation(
        tag="Push",
        summary=f"Give an app its own credential for {face.title}",
        access=(Access.ADMIN,),
        body=face.body,
        success={200: Success("It was checked and is used from now on.", face.view)},
        problems=(507,),
    )

    async def push_credential_put(request: Request[Any, Any, Any], app_id: UUID) -> ASGIApp:
        """Check the credential and keep it sealed in place of the one before. In mode local it is kept, not used."""
        by = _author(request)
        body = await read(request)
        await credentials.check_app(app_id)
        document = _document_of(body)
        return _reply(face, await credentials.put(app_id, document, by))

    return put(_path(face), opt=described(operation))(_named(push_credential_put, face))


def _delete_handler(credentials: AppCredentials, face: _Face) -> HTTPRouteHandler:
    operation = Operation(
        tag="Push",
        summary=f"Take an app's own credential for {face.title} away",
        access=(Access.ADMIN,),
        success={204: Success("It is gone; the instance's is used, if there is one.")},
        problems=(507,),
    )

    async def push_credential_delete(request: Request[Any, Any, Any], app_id: UUID) -> ASGIApp:
        """Delete it; what is being sent with it finishes."""
        await credentials.delete(app_id, face.kind, _author(request))
        return empty_reply()

    return delete(_path(face), status_code=200, opt=described(operation))(_named(push_credential_delete, face))


def _path(face: _Face) -> str:
    return "/push/config/{app_id:uuid}/credentials/" + face.name


def _named(call: Callable[..., Any], face: _Face) -> Callable[..., Any]:
    """Name a call for its push service: the names are the operations' ids."""
    call.__name__ = call.__qualname__ = f"{call.__name__}_{face.name}"
    return call


def _author(request: Request[Any, Any, Any]) -> Author:
    admin = admin_of(request)
    return Author(user_target(admin.user_id) if admin.user_id is not None else "", address_of(request))


def _document_of(body: FcmCredential | ApnsCredential) -> FcmDocument | ApnsDocument:
    if isinstance(body, FcmCredential):
        try:
            return FcmDocument(Secret(msgspec.json.encode(body.service_account).decode()))
        except RecursionError:
            raise InvalidField("service_account", "Give service_account as the key file came: it is flat.") from None
    for name, topic in (("topic", body.topic), ("voip_topic", body.voip_topic)):
        if topic is not None and _TOPIC.fullmatch(topic) is None:
            raise InvalidField(name, f"Give {name} as Apple shows it: letters, digits, dots and hyphens, at most 200.")
    if (body.auth_key is None) == (body.certificate is None):
        raise InvalidField("auth_key", "Give auth_key or certificate: one of the two.")
    credential: ApnsKey | ApnsCertificate
    if body.auth_key is not None:
        credential = ApnsKey(Secret(body.auth_key.p8), body.auth_key.key_id, body.auth_key.team_id)
    elif body.certificate is not None:
        credential = ApnsCertificate(body.certificate.certificate, Secret(body.certificate.private_key))
    return ApnsDocument(credential, body.topic, body.environment, body.voip_topic)


def _reply(face: _Face, shown: ShownCredential) -> Reply:
    view = msgspec.convert({**shown.facts, "changed_at": shown.changed_at}, face.view)
    return json_reply(view)
