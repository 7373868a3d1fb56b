"""Run push services, a relay, a mail server and a webhook by hand, to drive the program without the network:

    python -m tests.doubles fcm apns webpush smtp webhook --port 9701

Prints the settings with which `carillon serve` uses them, ready to be exported. `curl --http1.1 --cacert AUTHORITY
URL/_requests` shows what a service accepted. `POST URL/_script` takes JSON: {"next": ["UNAVAILABLE", "reset"]},
{"outage": "silent"}, {"latency_s": 0.05}, {"chances": {"html": 0.01}}, {"do": ["goaway", "drop", "forget"]}.
The others print what they take.
"""

import argparse
import asyncio
import json
import signal
import tempfile
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

from tests.doubles.apns import ApnsDouble, device_token, run_apns
from tests.doubles.certificates import Authority
from tests.doubles.fcm import FcmDouble, registration_token, run_fcm
from tests.doubles.http_peer import Asked, plain_reply, run_http_peer
from tests.doubles.push_service import PushService, run_push_service
from tests.doubles.relay import RelayDouble, run_relay
from tests.doubles.smtp_server import PASSWORD, USER, Mail, SmtpDouble, run_smtp


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.doubles", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("services", nargs="+", choices=("apns", "fcm", "relay", "smtp", "webhook", "webpush"))
    parser.add_argument("--port", type=int, default=0, help="TCP port on loopback of the first; 0 takes free ones")
    parser.add_argument("--folder", type=Path, help="where certificates and credentials are written")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="doubles-"))
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(serve(arguments.services, arguments.port, folder.absolute()))


async def serve(services: list[str], port: int, folder: Path) -> None:
    """Run until interrupted."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    authority = Authority(folder, valid_for=timedelta(days=365))
    async with AsyncExitStack() as stack:
        if set(services) & {"apns", "fcm", "webpush"}:
            print("export DELIVERY_MODE=firebase")
        elif "relay" in services:
            print("export DELIVERY_MODE=relay")
        if set(services) & {"relay", "webhook", "webpush"}:
            print("export OUTBOUND_ALLOW=localhost,127.0.0.1")
        print(f"export SSL_CERT_FILE={authority.write_certificate()}")
        for offset, service in enumerate(services):
            own_port = port + offset if port else 0
            if service == "apns":
                tell_apns(await stack.enter_async_context(run_apns(authority, port=own_port)), folder)
            elif service == "smtp":
                tls = authority.server_tls("localhost")
                tell_smtp(
                    await stack.enter_async_context(run_smtp(tls, signs_in=True, port=own_port, on_mail=print_mail))
                )
            elif service == "webpush":
                await tell_web_push(
                    await stack.enter_async_context(run_push_service(authority.server_tls("localhost"), port=own_port))
                )
            elif service == "relay":
                tell_relay(await stack.enter_async_context(run_relay(port=own_port)))
            elif service == "webhook":
                peer = await stack.enter_async_context(run_http_peer(print_receipt, port=own_port))
                print(f"# webhook_url of an app: http://127.0.0.1:{peer.port}/receipts")
            else:
                tell_fcm(await stack.enter_async_context(run_fcm(authority, port=own_port)), folder)
        print("# Stop with Ctrl-C.", flush=True)
        await stopped.wait()


async def tell_web_push(service: PushService) -> None:
    """Print a subscription that a browser could have, and whatever it gets."""
    browser, subscription = service.subscribe()

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        before = len(browser.received)
        await service.answer(asked, writer)
        for push in browser.received[before:]:
            print(f"# browser got {json.dumps(push, ensure_ascii=False)}", flush=True)

    service.peer.answer = answer
    print("export VAPID_SUBJECT=mailto:admin@push.example")
    print(f"# push_token of a browser: {subscription}")


def tell_relay(double: RelayDouble) -> None:
    """Register an instance, print the settings, and whatever is passed on."""
    instance_id, key = double.register()

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        before = len(double.pushes)
        await double.answer(asked, writer)
        for push in double.pushes[before:]:
            print(f"# relay got {json.dumps(push, ensure_ascii=False)}", flush=True)

    double.peer.answer = answer
    print(f"export PUSH_RELAY_URL={double.url}")
    print(f"export PUSH_RELAY_INSTANCE_ID={instance_id}")
    print(f"export PUSH_RELAY_API_KEY={key}")


async def print_receipt(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Take a receipt and print it."""
    print(f"# receipt {asked.headers.get('webhook-id', '')}: {asked.body.decode(errors='replace')}", flush=True)
    await plain_reply(b"", status=204)(asked, writer)


def tell_smtp(double: SmtpDouble) -> None:
    """Print the settings."""
    print(f"export SMTP_HOST=localhost SMTP_PORT={double.port} SMTP_FROM={USER} SMTP_USER={USER}")
    print(f"export SMTP_PASSWORD={PASSWORD}")


def print_mail(mail: Mail) -> None:
    """Tell of a mail that was taken."""
    print(f"# {mail.message['Message-ID']} to {', '.join(mail.recipients)}: {mail.message['Subject']}", flush=True)


def tell_fcm(double: FcmDouble, folder: Path) -> None:
    """Write the credential and print the settings."""
    account = folder / "service-account.json"
    account.write_text(json.dumps(double.service_account(), indent=2))
    print(f"export FCM_BASE_URL={double.url}")
    print(f"export FIREBASE_CREDENTIALS_JSON_FILE={account}")
    print(f"# accepted: {registration_token()}   dead: {registration_token('UNREGISTERED', 1)}")


def tell_apns(double: ApnsDouble, folder: Path) -> None:
    """Write the credentials and print the settings."""
    key_file = folder / f"AuthKey_{double.key.key_id}.p8"
    key_file.write_text(double.key.p8)
    topic = min(double.topics)
    certificate, key = double.client_certificate(topic)
    (folder / "certificate.pem").write_text(certificate)
    (folder / "certificate-key.pem").write_text(key)
    print(f"export APNS_BASE_URL={double.url}")
    print(f"export APNS_BUNDLE_ID={topic}")
    print(f"export APNS_KEY_ID={double.key.key_id}")
    print(f"export APNS_TEAM_ID={double.key.team_id}")
    print(f"export APNS_AUTH_KEY_P8_FILE={key_file}")
    print(f"# or, instead of the key: APNS_CERTIFICATE_FILE={folder}/certificate.pem")
    print(f"#                         APNS_CERTIFICATE_KEY_FILE={folder}/certificate-key.pem")
    print(f"# accepted: {device_token()}")
    print(f"# dead:     {device_token('Unregistered')}")


if __name__ == "__main__":
    main()
