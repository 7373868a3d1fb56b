"""The README's verifiers of receipts, run as they stand there: they take what is signed and nothing else."""

import base64
import hashlib
import hmac
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.domain.secret import Secret
from appliance.security.client_secrets import make_webhook_secret
from appliance.security.webhook_signing import sign_webhook

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SECTION = README[README.index("## Receipts") : README.index("## People, apps, devices")]
BODY = json.dumps({"status": "delivered", "error": "Zażółć"}, ensure_ascii=False).encode()
Verify = Callable[[str, dict[str, str], bytes], bool]


def snippet(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    assert found is not None
    return found[1]


def verify_in_python(secret: str, headers: dict[str, str], body: bytes) -> bool:
    names: dict[str, Verify] = {}
    exec(snippet("python"), names)  # noqa: S102 - what the README tells people to run
    return names["is_genuine"](secret, headers, body)


def verify_in_javascript(secret: str, headers: dict[str, str], body: bytes) -> bool:
    given = json.dumps([secret, headers, base64.b64encode(body).decode()])
    call = f"const [s, h, b] = {given}; console.log(isGenuine(s, h, Buffer.from(b, 'base64')));"
    done = subprocess.run(
        ["node", "--input-type=module", "-"],
        input=f"{snippet('js')}\n{call}",
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return {"true": True, "false": False}[done.stdout.strip()]


def verify_in_shell(secret: str, headers: dict[str, str], body: bytes) -> bool:
    script = snippet("sh").replace("cat body", "cat")
    done = subprocess.run(
        ["sh", "-euc", script],
        input=body,
        env={
            "PATH": "/usr/bin:/bin",
            "SECRET": secret,
            "ID": headers["webhook-id"],
            "TIMESTAMP": headers["webhook-timestamp"],
        },
        capture_output=True,
        timeout=20,
        check=True,
    )
    return done.stdout.decode().strip() in headers["webhook-signature"].split()


@pytest.fixture(params=[verify_in_python, verify_in_javascript], ids=["python", "javascript"])
def verify(request: pytest.FixtureRequest) -> Verify:
    verifier: Verify = request.param
    return verifier


def signed(*secrets: Secret, body: bytes = BODY, at: float | None = None) -> dict[str, str]:
    sent_at = datetime.fromtimestamp(time.time() if at is None else at, UTC)
    return sign_webhook(body, message_id="01a2-message", sent_at=sent_at, secrets=secrets)


def test_it_takes_a_receipt(verify: Verify) -> None:
    secret = make_webhook_secret()
    assert verify(secret.reveal(), signed(secret), BODY)


def test_while_two_secrets_overlap_it_takes_either(verify: Verify) -> None:
    new, old = make_webhook_secret(), make_webhook_secret()
    headers = signed(new, old)
    assert verify(new.reveal(), headers, BODY)
    assert verify(old.reveal(), headers, BODY)
    assert not verify(make_webhook_secret().reveal(), headers, BODY)


def test_it_refuses_what_was_altered_replayed_or_signed_by_others(verify: Verify) -> None:
    secret = make_webhook_secret()
    headers = signed(secret)
    assert not verify(secret.reveal(), headers, BODY + b" ")
    assert not verify(secret.reveal(), {**headers, "webhook-id": "other"}, BODY)
    assert not verify(make_webhook_secret().reveal(), headers, BODY)
    for skew_s in (-400, 400):
        assert not verify(secret.reveal(), signed(secret, at=time.time() + skew_s), BODY)
    assert not verify(secret.reveal(), {**headers, "webhook-signature": "v1, v1,AAAA v2,x"}, BODY)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the shell verifier needs openssl")
def test_the_one_in_shell_prints_the_signature() -> None:
    secret = make_webhook_secret()
    assert verify_in_shell(secret.reveal(), signed(secret), BODY)
    assert not verify_in_shell(secret.reveal(), signed(secret), BODY + b" ")


def test_keymasters_header_is_what_the_readme_says() -> None:
    secret = make_webhook_secret()
    wanted = hmac.new(secret.reveal().encode(), BODY, hashlib.sha256).hexdigest()
    assert signed(secret)["x-keymaster-signature"] == f"sha256={wanted}"
