"""How commands are shown so that they can be pasted: quoted for any shell, with everything they need."""

import os
import shlex
import sys
from pathlib import Path

import appliance

COMMAND_VARIABLE = "CARILLON_COMMAND"


def shown_command(folder: Path) -> str:
    """Give the words that run `carillon` on this data folder from any place.

    The short command that the set-up made if there is one, else the interpreter with all it must be told.
    """
    given = os.environ.get(COMMAND_VARIABLE)
    if given:
        # Whoever sets it has quoted it: it may be several words.
        return given
    wrapper = folder / "carillon"
    if os.access(wrapper, os.X_OK) and wrapper.is_file():
        return shlex.quote(str(wrapper))
    beside = Path(sys.executable).parent / "carillon"
    if os.access(beside, os.X_OK):
        return shlex.join([str(beside), "--data", str(folder)])
    code = Path(appliance.__file__ or ".").absolute().parent.parent
    words = ["env", f"PYTHONPATH={code}", sys.executable, "-m", "appliance.cli", "--data", str(folder)]
    return shlex.join(words)
