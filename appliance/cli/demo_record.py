"""`try.json`: what a demo is made of, so that commands (and curl) can use it."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Final

from appliance.cli.data_folder import write_private

DEMO_FILE: Final = "try.json"


@dataclass(frozen=True, slots=True)
class DemoRecord:
    """The demo's address, names, secrets and tokens; the file holds exactly these keys."""

    base_url: str
    admin_username: str
    admin_password: str = field(repr=False)
    client_id: str
    client_secret: str = field(repr=False)
    user_id: str
    user_token: str = field(repr=False)
    second_user_id: str
    second_user_token: str = field(repr=False)


def load_demo(folder: Path) -> DemoRecord | None:
    """Read the demo of a data folder; None when there is none, or this user may not read it."""
    try:
        kept = json.loads((folder / DEMO_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    names = [known.name for known in fields(DemoRecord)]
    if not isinstance(kept, dict) or not all(isinstance(kept.get(name), str) for name in names):
        return None
    return DemoRecord(**{name: kept[name] for name in names})


def save_demo(folder: Path, demo: DemoRecord) -> None:
    """Replace the file, mode 600. Raises `OSError`."""
    write_private(folder / DEMO_FILE, json.dumps(asdict(demo), indent=2) + "\n")
