"""A real control plane without nodes, for tests of the operator against the real API server."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml

from devcluster import config as configuration
from devcluster.controlplane import ControlPlane, control_plane
from devcluster.machine import go_version
from tests.controlplane.api import Admin, install

CRDS = Path(__file__).resolve().parents[2] / "crds"
DEFINITIONS = [yaml.safe_load(file.read_text()) for file in sorted(CRDS.glob("*.yaml"))]


@pytest.fixture(scope="session")
def bare_plane() -> Iterator[ControlPlane]:
    """etcd, API server and controllers; nothing of ours in it yet."""
    if not shutil.which("go"):
        pytest.skip("the control plane is built with Go, and there is none")
    config = configuration.from_environment(os.environ, Path.home())
    with control_plane(config, go_version()) as plane:
        yield plane


@pytest.fixture
async def admin(bare_plane: ControlPlane) -> AsyncIterator[Admin]:
    """The administrator."""
    async with Admin(bare_plane) as admin:
        yield admin


@pytest.fixture
async def plane(bare_plane: ControlPlane, admin: Admin) -> ControlPlane:
    """With our resource definitions."""
    await install(admin, DEFINITIONS)
    return bare_plane
