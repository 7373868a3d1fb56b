"""Run a push service by hand, to drive the program against it without the network:

    python -m tests.doubles apns --port 9701
    python -m tests.doubles fcm --port 9702

Prints the base URL, the authority's certificate and the credential to use. `curl --cacert CA URL/_requests` shows what
was accepted; `POST URL/_script` takes JSON: {"next": ["503", …]}, {"outage": "silent"}, {"latency_s": 0.05},
{"chances": {"reset": 0.01}}, {"do": ["goaway", "drop", "forget"]}.
"""

import argparse
import asyncio
import json
import signal
import tempfile
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path

from tests.doubles import apns, fcm
from tests.doubles.certificates import Authority


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.doubles", description=__doc__.partition("\n")[0])
    parser.add_argument("service", choices=("apns", "fcm"))
    parser.add_argument("--port", type=int, default=0, help="TCP port on loopback; 0 takes a free one")
    parser.add_argument("--folder", type=Path, help="where the certificate and the credential are written")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="doubles-"))
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(serve(arguments.service, arguments.port, folder))


async def serve(service: str, port: int, folder: Path) -> None:
    """Run until interrupted."""
    authority = Authority(folder, valid_for=timedelta(days=365))
    authority_file = authority.write_certificate()
    running: AbstractAsyncContextManager[apns.ApnsDouble] | AbstractAsyncContextManager[fcm.FcmDouble]
    running = apns.run_apns(authority, port=port) if service == "apns" else fcm.run_fcm(authority, port=port)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with running as double:
        print(f"base URL     {double.url}")
        print(f"authority    {authority_file}")
        for line in _credential(double, folder):
            print(line)
        print("Stop with Ctrl-C.", flush=True)
        await stopped.wait()


def _credential(double: apns.ApnsDouble | fcm.FcmDouble, folder: Path) -> list[str]:
    if isinstance(double, fcm.FcmDouble):
        account = folder / "service-account.json"
        account.write_text(json.dumps(double.service_account(), indent=2))
        return [f"credential   {account}", f"tokens       {fcm.registration_token()}, UNREGISTERED:device-1, …"]
    key_file = folder / f"AuthKey_{double.key.key_id}.p8"
    key_file.write_text(double.key.p8)
    topic = min(double.topics)
    certificate, key = double.client_certificate(topic)
    certificate_file = folder / "client.pem"
    certificate_file.write_text(certificate + key)
    return [
        f"key          {key_file} (key id {double.key.key_id}, team id {double.key.team_id}, topic {topic})",
        f"certificate  {certificate_file} (certificate and key)",
        f"tokens       {apns.device_token()} is accepted",
        f"             {apns.device_token('Unregistered')} is unregistered",
    ]


if __name__ == "__main__":
    main()
