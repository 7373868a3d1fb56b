"""How a command ends: the exit codes, the same as those of `install.sh`, and the failure that carries one."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit status of every command."""

    DONE = 0
    FAILED = 1
    """The server, or the data, refused what was asked."""
    USAGE = 2
    """The command line, a setting or the data folder cannot be used as given."""
    NOT_RUNNING = 3
    """`status` only: no instance runs from this data folder."""
    PORT_TAKEN = 4
    """Another program listens on the port, or this user may not listen on it."""
    UNREACHABLE = 6
    """No server answered."""
    NO_SPACE = 8
    """The disk is full."""
    LOCKED = 9
    """Another process uses the data folder."""
    INTERRUPTED = 130
    """Ctrl-C."""


class CommandFailed(Exception):
    """A command cannot go on: what is wrong, and the next step, each one line."""

    def __init__(self, what: str, next_step: str = "", *, code: Exit = Exit.FAILED) -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step
        self.code = code
