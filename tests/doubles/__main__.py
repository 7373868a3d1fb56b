"""Run push services and a mail server by hand, to drive the program against them without the network:

    python -m tests.doubles fcm apns smtp --port 9701

Prints the settings with which `carillon serve` uses them, ready to be exported. `curl --http1.1 --cacert AUTHORITY
URL/_requests` shows what a service accepted. `POST URL/_script` takes JSON: {"next": ["UNAVAILABLE", "reset"]},
{"outage": "silent"}, {"latency_s": 0.05}, {"chances": {"html": 0.01}}, {"do": ["goaway", "drop", "forget"]}.
The mail server prints what it takes.
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
from tests.doubles.smtp_server import PASSWORD, USER, Mail, SmtpDouble, run_smtp


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.doubles", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("services", nargs="+", choices=("apns", "fcm", "smtp"))
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
        if set(services) - {"smtp"}:
            print("export DELIVERY_MODE=firebase")
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
            else:
                tell_fcm(await stack.enter_async_context(run_fcm(authority, port=own_port)), folder)
        print("# Stop with Ctrl-C.", flush=True)
        await stopped.wait()


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
