"""The README tells of every setting, by its name and its real default."""

import re
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path

from appliance.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
CONFIGURATION = README[README.index("## Configuration") : README.index("## How it is built")]
ROWS = [line.split("|") for line in CONFIGURATION.splitlines() if line.startswith("| `")]


def test_every_setting_is_in_the_readme():
    told = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", CONFIGURATION))
    assert {field.name.upper() for field in fields(Settings)} <= told


def test_defaults_in_the_readme_are_the_real_ones():
    for field in fields(Settings):
        default = field.default
        if isinstance(default, Enum):
            default = default.name.lower()
        if default is MISSING or not isinstance(default, str | int) or default == "":
            continue
        row = next(row for row in ROWS if f"`{field.name.upper()}`" in row[1])
        names = re.findall(r"`([A-Z0-9_]+)`", row[1])
        values = re.findall(r"`([^`]+)`", row[2])
        assert values[names.index(field.name.upper())] == str(default), field.name
