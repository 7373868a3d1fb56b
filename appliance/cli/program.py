"""The `carillon` command: which words it knows, and what each leads to.

Only argument parsing is loaded here; the module of a command is imported when that command runs, so that `--help` and
mistakes are answered at once.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from appliance import __version__
from appliance.cli import accounts, data_folder
from appliance.cli.exits import Exit

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_EXITS: Final = """\
exit status:
  0 done              1 refused or failed      2 wrong use, settings or data folder
  3 not running       4 port taken             6 no server answers
  8 disk full         9 data folder in use     130 interrupted

DATA_DIR names the data folder where --data does not. CARILLON_DEBUG=1 shows where an unexpected failure happened."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status; a failure is one line and the next step on standard error."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        args = make_parser().parse_args(arguments)
        return _run(args)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has read enough. Nothing more can be written, not even at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE
    except Exception as error:
        from appliance.cli.failures import tell

        return tell(error)


def _run(args: argparse.Namespace) -> int:
    args.data = data_folder.locate(args.data, os.environ)
    module, _, function = args.runs.partition(":")
    run: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(module), function or "run")
    return run(args)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="carillon",
        description="Carillon, a self-hosted push-notification appliance.",
        epilog=_EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", metavar="DIR", help="the data folder (default: /var/lib/carillon, or yours)")
    parser.add_argument("--version", action="version", version=f"carillon {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_instance_commands(commands)
    _add_notification_commands(commands)
    accounts.register(commands)
    return parser


def _add(commands: "_Commands", name: str, runs: str, text: str, *, data_flag: bool = True) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    # Also behind the command's name, where people put it.
    if data_flag:
        command.add_argument("--data", metavar="DIR", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    command.set_defaults(runs=f"appliance.cli.{runs}")
    return command


def _add_instance_commands(commands: "_Commands") -> None:
    _add(commands, "prepare", "prepare", "make the data folder, its keys and its database where they are missing")
    serve = _add(commands, "serve", "serve", "run the appliance in this terminal until it is told to stop")
    serve.add_argument("--host", metavar="ADDR", help="address to listen on (default: HOST, else 0.0.0.0)")
    serve.add_argument("--port", metavar="N", type=_port, help="port to listen on (default: PORT, else 8480)")
    _add(commands, "status", "instance:show_status", "say whether an instance runs from the data folder")
    _add(commands, "stop", "instance:stop_instance", "stop the instance that runs from the data folder")
    link = _add(commands, "setup-link", "setup_link", "print the link of the set-up page, with a fresh one-time code")
    link.add_argument("--base-url", metavar="URL", help="the server's address as a browser reaches it")
    demo = _add(commands, "try", "demo", "make a demo app and demo users, and print commands to try them with")
    demo.add_argument("--base-url", metavar="URL", help="the server's address (default: http://127.0.0.1:8480)")
    web = _add(commands, "open", "open_web", "print the address of the web page, and open it where there is a browser")
    web.add_argument("--url", metavar="URL", help="the server's address")
    _add(commands, "version", "program:show_version", "print the version")


def _add_notification_commands(commands: "_Commands") -> None:
    send = _add(commands, "send", "send", "send a notification as an app", data_flag=False)
    send.add_argument("title")
    send.add_argument("body")
    send.add_argument("--user", metavar="ID", help="the user's id (default: the demo user)")
    send.add_argument(
        "--data", dest="pairs", metavar="NAME=VALUE", action="append", default=[], help="data for the app; repeatable"
    )
    send.add_argument("--json", metavar="OBJECT", help="data for the app as a JSON object")
    send.add_argument("--type", help="what kind it is, for the app")
    send.add_argument("--priority", choices=("low", "normal", "high"))
    send.add_argument("--ttl", metavar="TIME", help="how long it is worth delivering: 90s, 15m, 2h, 7d; 0 = live only")
    send.add_argument("--at", metavar="MOMENT", help="when to send it: 2026-03-17T12:00 or +15m")
    send.add_argument("--collapse-key", metavar="KEY", help="a newer notification with the same key replaces it")
    send.add_argument("--idempotency-key", metavar="KEY", help="the same key never sends twice")
    send.add_argument(
        "--wait", metavar="SECONDS", type=_seconds, nargs="?", const=30.0, help="wait until it is settled (30 s)"
    )
    _add_app_flags(send)
    listen = _add(commands, "listen", "listen", "receive a user's notifications in this terminal")
    listen.add_argument("--device", metavar="NAME", help="this terminal's name as a device (default: this machine's)")
    listen.add_argument("--json", action="store_true", help="print each notification as one line of JSON")
    listen.add_argument("--once", action="store_true", help="end after the first notification")
    listen.add_argument("--no-ack", action="store_true", help="acknowledge nothing: other ways of delivery go on")
    listen.add_argument("--url", metavar="URL", help="the server's address (or CARILLON_URL)")
    _add_user_flags(listen)
    explain = _add(commands, "explain", "explain", "tell what became of a notification, in plain words")
    explain.add_argument("id", help="the notification's id")
    explain.add_argument("--json", action="store_true", help="print the timeline as JSON")
    _add_app_flags(explain)
    _add_user_flags(explain)


def _add_app_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--url", metavar="URL", help="the server's address (or CARILLON_URL)")
    command.add_argument("--client-id", metavar="ID", help="the app's client id (or CARILLON_CLIENT_ID)")
    command.add_argument("--client-secret", metavar="SECRET", help="its secret (or, safer, CARILLON_CLIENT_SECRET)")


def _add_user_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--username", metavar="NAME", help="the user to sign in as (or CARILLON_USERNAME)")
    command.add_argument("--password", help="the password (or, safer, CARILLON_PASSWORD; else it is asked for)")
    command.add_argument("--token", help="an access token in place of a name (or, safer, CARILLON_TOKEN)")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError("give seconds from 0 to 86400")
    return seconds


def show_version(args: argparse.Namespace) -> int:
    """Print the version."""
    print(f"carillon {__version__}")
    return Exit.DONE


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError("give a port from 0 (any free one) to 65535")
    return int(text)
