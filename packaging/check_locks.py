"""Check that the lock files are complete and hold no address.

Every package must be pinned with `==` and carry at least one hash; no line may name an address or a local file; the
development lock must hold the runtime lock at the same versions; what pyproject.toml names must be locked; a lock of
JavaScript packages must not record where a package came from. Exits 1 and names each fault.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = re.compile(
    r"https?://|file:|git\+|^\s*(-i|-f|-e|--index-url|--extra-index-url|--find-links)\b", re.IGNORECASE
)
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)")


def read_pins(lock: Path, faults: list[str]) -> dict[str, str]:
    """Return name -> version of every package in a lock file; what is wrong with the file is added to `faults`."""
    pins: dict[str, str] = {}
    text = lock.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        if ADDRESS.search(line):
            faults.append(f"{lock.name}:{number}: names an address")
    for entry in re.split(r"\n(?=\S)", text.strip()):
        pin = PIN.match(entry)
        if pin is None:
            faults.append(f"{lock.name}: not pinned with '==': {entry.splitlines()[0]}")
        elif "--hash=sha256:" not in entry:
            faults.append(f"{lock.name}: {pin['name']} has no hash")
        else:
            pins[pin["name"].lower()] = pin["version"]
    if not pins:
        faults.append(f"{lock.name}: holds no package")
    return pins


def read_names(requirements: list[str]) -> list[str]:
    """Return the package names of requirements, without extras, versions and markers."""
    return [re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0].lower() for requirement in requirements]


def find_faults(root: Path) -> list[str]:
    """Return what is wrong with the lock files under `root`, one line a fault; an empty list means all is well."""
    faults: list[str] = []
    runtime = read_pins(root / "packaging" / "requirements.lock", faults)
    dev = read_pins(root / "packaging" / "dev.lock", faults)
    read_pins(root / "packaging" / "node.lock", faults)
    if (root / "packaging" / "build.lock").exists():
        read_pins(root / "packaging" / "build.lock", faults)
    for name, version in runtime.items():
        if dev.get(name) != version:
            faults.append(f"dev.lock: {name} is {dev.get(name, 'missing')}, requirements.lock says {version}")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    for lock, pins, wanted in (
        ("requirements.lock", runtime, project["project"]["dependencies"]),
        ("dev.lock", dev, project["dependency-groups"]["dev"]),
    ):
        faults.extend(
            f"{lock}: {name} is named in pyproject.toml but not locked; run packaging/lock.sh"
            for name in read_names(wanted)
            if name not in pins
        )
    for npm_lock in (root / "frontend" / "package-lock.json", root / "tests" / "signalr" / "package-lock.json"):
        if npm_lock.exists() and '"resolved"' in npm_lock.read_text(encoding="utf-8"):
            faults.append(f"{npm_lock.relative_to(root)}: records addresses (its folder's .npmrc must switch that off)")
    return faults


def main() -> int:
    faults = find_faults(ROOT)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
