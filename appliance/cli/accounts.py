"""`carillon user …` and `carillon app …`: how they are said. What they do is in `account_commands`.

They work on the data itself, beside a running server too: it follows within two seconds what is revoked here.
"""

from argparse import SUPPRESS, ArgumentParser, Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_RUNS = "appliance.cli.accounts"


def register(subparsers: "_SubParsersAction[ArgumentParser]") -> None:
    """Add the two commands."""
    user = _group(subparsers, "user", "add, list and shut out people")
    add = _command(user, "add", "add a user")
    add.add_argument("username", metavar="NAME")
    add.add_argument("--admin", action="store_true", help="may change everything on this server")
    add.add_argument("--app", metavar="ID", action="append", default=[], help="enrol in this app; repeatable")
    add.add_argument("--email", metavar="ADDRESS")
    _add_password_flags(add)
    _add_json_flag(_command(user, "list", "list all users"))
    passwd = _command(user, "passwd", "set a user's password and end every sign-in made with the old one")
    passwd.add_argument("username", metavar="NAME")
    _add_password_flags(passwd)
    disable = _command(user, "disable", "shut a user out at once")
    disable.add_argument("username", metavar="NAME")
    enrol = _command(user, "enrol", "make a user a member of an app, so that it may send to them")
    enrol.add_argument("username", metavar="NAME")
    enrol.add_argument("app", metavar="APP")

    app = _group(subparsers, "app", "add and list senders, and change their secrets")
    add_app = _command(app, "add", "add an app and show its secret, this once")
    add_app.add_argument("name", metavar="NAME")
    _add_json_flag(add_app)
    _add_json_flag(_command(app, "list", "list all apps"))
    rotate = _command(app, "rotate-secret", "give an app a new secret; the old one is void at once")
    rotate.add_argument("app", metavar="APP")
    _add_json_flag(rotate)
    enable_app = _command(app, "enable", "let an app send: switch push on for it")
    enable_app.add_argument("app", metavar="APP")
    disable_app = _command(app, "disable", "shut an app out at once")
    disable_app.add_argument("app", metavar="APP")


def run(args: Namespace) -> int:
    """Do what was said."""
    from appliance.cli import account_commands

    return account_commands.run(args)


def _group(
    subparsers: "_SubParsersAction[ArgumentParser]", name: str, text: str
) -> "_SubParsersAction[ArgumentParser]":
    parser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    _add_data_flag(parser)
    return parser.add_subparsers(title="commands", metavar="COMMAND", dest="account_command", required=True)


def _command(group: "_SubParsersAction[ArgumentParser]", name: str, text: str) -> ArgumentParser:
    parser = group.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(runs=_RUNS, account_action=f"{parser.prog.split()[-2]} {name}")
    _add_data_flag(parser)
    return parser


def _add_data_flag(parser: ArgumentParser) -> None:
    # Also behind the command's name, where people put it.
    parser.add_argument("--data", metavar="DIR", default=SUPPRESS, help=SUPPRESS)


def _add_password_flags(parser: ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    how.add_argument("--generate", action="store_true", help="make up a password and show it, this once")


def _add_json_flag(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
