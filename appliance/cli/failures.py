"""What every failure is to the person at the terminal: one line, the next step and an exit code."""

import errno
import os
import sys
import traceback
from typing import Final

from appliance.cli.exits import CommandFailed, Exit
from appliance.domain.errors import CarillonError, OutOfSpace, TooMany
from appliance.settings import SettingsError

DEBUG_VARIABLE: Final = "CARILLON_DEBUG"


def tell(error: BaseException) -> Exit:
    """Print the failure to standard error and give its exit code; with CARILLON_DEBUG set, the traceback, too."""
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    failed = as_command_failed(error)
    print(f"carillon: {failed.what}", file=sys.stderr)
    if failed.next_step:
        print(f"  {failed.next_step}", file=sys.stderr)
    return failed.code


def as_command_failed(error: BaseException) -> CommandFailed:
    """Give the failure in the terms of a command."""
    if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        return as_command_failed(error.exceptions[0])
    if isinstance(error, CommandFailed):
        return error
    if isinstance(error, SettingsError):
        return CommandFailed(str(error), code=Exit.USAGE)
    if isinstance(error, OutOfSpace):
        return CommandFailed(error.title + ".", error.detail, code=Exit.NO_SPACE)
    if isinstance(error, TooMany):
        return CommandFailed(f"{error.title}: {error.detail}", f"Try again in {error.retry_after_s} s.")
    if isinstance(error, CarillonError):
        return CommandFailed(f"{error.title}: {error.detail}")
    if isinstance(error, OSError):
        return _from_system(error)
    return _from_client(error) or _from_storage(error) or _unexpected(error)


def _from_system(error: OSError) -> CommandFailed:
    place = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CommandFailed(f"{place}the disk is full.", "Make room and run it again.", code=Exit.NO_SPACE)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CommandFailed(
            f"{place}{error.strerror}.", "Run it as the user who owns the folder, or name another one.", code=Exit.USAGE
        )
    return CommandFailed(f"{place}{error.strerror or error}.")


def _from_client(error: BaseException) -> CommandFailed | None:
    # Commands that never spoke to a server have not loaded the client.
    from appliance.client_errors import ClientError, NotSignedIn, Refused, Unreachable

    if not isinstance(error, ClientError):
        return None
    if isinstance(error, Unreachable):
        return CommandFailed(str(error), "Is it running? Check with: carillon status", code=Exit.UNREACHABLE)
    if isinstance(error, NotSignedIn):
        return CommandFailed(str(error), "Check the client id and secret, or the user name and password.")
    if isinstance(error, Refused) and error.field:
        return CommandFailed(str(error), f"The field at fault is {error.field}.")
    return CommandFailed(str(error))


def _from_storage(error: BaseException) -> CommandFailed | None:
    from appliance.security.sealing import SealError
    from appliance.storage.sqlite import translate
    from appliance.storage.upgrade import SchemaTooNew, SchemaUpgradeFailed

    refusal = translate(error) if isinstance(error, Exception) else None
    if refusal is not None:
        return as_command_failed(refusal)
    if isinstance(error, SchemaTooNew | SchemaUpgradeFailed):
        return CommandFailed(str(error))
    if isinstance(error, SealError):
        return CommandFailed(
            "SECRET_KEY is not the key under which this data was sealed.",
            "Put the SECRET_KEY of this data back into .env (or the environment).",
            code=Exit.USAGE,
        )
    return None


def _unexpected(error: BaseException) -> CommandFailed:
    text = str(error).strip().split("\n", 1)[0]
    return CommandFailed(
        f"unexpected {type(error).__name__}{f': {text}' if text else ''}",
        f"This is a fault of Carillon. {DEBUG_VARIABLE}=1 shows where it happened.",
    )
