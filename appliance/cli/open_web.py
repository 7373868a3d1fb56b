"""`carillon open`: prints the web page's address, and opens it where there is a browser."""

import contextlib
import os
import sys
import webbrowser
from argparse import Namespace
from pathlib import Path

from appliance.cli.address import people_url
from appliance.cli.demo_record import load_demo
from appliance.cli.exits import Exit
from appliance.settings import load_settings


def run(args: Namespace) -> int:
    """Print the address in any case; a machine without a browser is no failure."""
    folder: Path = args.data
    demo = load_demo(folder)
    if args.url is None and demo is not None:
        url = demo.base_url
        print(f"Sign in as demo or {demo.admin_username} with the password {demo.admin_password}", file=sys.stderr)
    else:
        url = people_url(args.url, folder, load_settings(folder))
    print(f"{url}/", flush=True)
    if _has_display():
        with contextlib.suppress(Exception):
            webbrowser.open(f"{url}/")
    return Exit.DONE


def _has_display() -> bool:
    # Without a display `webbrowser` would take a text browser, and with it this terminal.
    if sys.platform == "darwin":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
