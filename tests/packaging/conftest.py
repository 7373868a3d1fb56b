"""A copy of this checkout, as somebody who has just unpacked it has, and a way to run its install.sh."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("appliance", "wizard", "frontend", "packaging", "install.sh", "pyproject.toml", "README.md", "LICENSE")
# Set by somebody's own shell, they would change what the installation does.
FOREIGN = ("CARILLON_", "PYTHON", "VIRTUAL_ENV", "DATABASE_URL", "DATA_DIR", "SECRET_KEY", "HOST", "PORT", "PUBLIC_URL")


@dataclass
class Machine:
    """Runs install.sh of one copy of the checkout, with data folders below `home`; knows what it has to stop."""

    checkout: Path
    home: Path
    environment: dict[str, str]
    data_folders: set[Path] = field(default_factory=set)

    def install(
        self,
        *options: str,
        data: Path | None = None,
        prefix: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run install.sh without a terminal and return what came of it."""
        if data is not None:
            self.data_folders.add(data)
            options = (*options, "--data", str(data))
        return subprocess.run(
            [*prefix, str(self.checkout / "install.sh"), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            env=self.environment if environment is None else environment,
            check=False,
        )

    def carillon(self, data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the short command that the installation leaves in the data folder."""
        return subprocess.run(
            [str(data / "carillon"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            env=self.environment,
            check=False,
        )

    def stop_all(self) -> None:
        for data in self.data_folders:
            if (data / "carillon").exists():
                self.carillon(data, "stop")


def copy_checkout(target: Path) -> Path:
    """Copy what a release ships, without what tools and installs have left in the checkout."""
    leftovers = shutil.ignore_patterns("__pycache__", "*.pyc", "node_modules", "dist", ".*_cache")
    target.mkdir(parents=True)
    for name in SHIPPED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=leftovers)
        elif source.exists():
            shutil.copy2(source, target / name)
    return target


def make_machine(folder: Path) -> Machine:
    home = folder / "home"
    home.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    # What a virtual environment put first in PATH must not be the Python that the installation finds.
    venv = os.environ.get("VIRTUAL_ENV") or os.devnull
    path = [part for part in environment.get("PATH", os.defpath).split(os.pathsep) if not part.startswith(venv)]
    environment |= {"HOME": str(home), "TMPDIR": str(folder), "PATH": os.pathsep.join(path)}
    return Machine(copy_checkout(folder / "carillon checkout"), home, environment)


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One copy of the checkout for all tests here, because its first installation takes long."""
    made = make_machine(tmp_path_factory.mktemp("machine"))
    try:
        yield made
    finally:
        made.stop_all()


@pytest.fixture
def fresh_machine(tmp_path: Path) -> Iterator[Machine]:
    """A copy of its own, on which nothing has been installed."""
    made = make_machine(tmp_path / "machine")
    try:
        yield made
    finally:
        made.stop_all()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder that is not there yet, with a blank in its name."""
    return tmp_path / "bell tower" / "data"


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield int(holder.getsockname()[1])
