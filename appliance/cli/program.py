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
from appliance.cli import data_folder
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
    parser.set_defaults(runs="appliance.cli.accounts")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_instance_commands(commands)

    return parser


def _add(commands: "_Commands", name: str, runs: str, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    # Also behind the command's name, where people put it.
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


def show_version(args: argparse.Namespace) -> int:
    """Print the version."""
    print(f"carillon {__version__}")
    return Exit.DONE


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError("give a port from 0 (any free one) to 65535")
    return int(text)
