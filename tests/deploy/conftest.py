"""Fixtures of the deployment's tests; what they stand on is in `tests.deploy.machine`.

For every test here:

- ``hpc``: an ordinary user. ``hpc.run([...])`` runs a command as it; ``hpc.start([...], log)``.
- ``shared``: a directory for one test, that belongs to this user and that everybody can read.
- ``unmounted``: the same, where a container sees only what is bound.
- ``sources``: a copy of the project that this user can read.
- ``sif``: the Apptainer image, built by this user from `apptainer.def`, readable by all.
- ``data``: a data root with one dataset, that this user may write to.
- ``image``, ``proxy_image``: names of the Docker images, built from `Dockerfile`, and of HAProxy.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.datasets import write_dataset
from tests.deploy import engine, machine
from tests.deploy.machine import User


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test may build an image first, or wait for a job: it gets longer than others."""
    for item in items:
        if "deploy" in item.path.parts and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(machine.BUILD_PATIENCE_S + 300))


@pytest.fixture(scope="session")
def hpc() -> User:
    """An ordinary user."""
    return machine.ordinary_user()


@pytest.fixture(scope="session")
def ground(hpc: User) -> Iterator[Path]:
    """A directory that the ordinary user can reach, unlike pytest's own; removed at the end."""
    place = Path(tempfile.mkdtemp(prefix="neurotrale-deploy-", dir="/var/tmp"))
    place.chmod(0o755)
    yield hpc.own(place)
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def shared(ground: Path, hpc: User) -> Iterator[Path]:
    """A directory for one test."""
    place = Path(tempfile.mkdtemp(prefix="test-", dir=ground))
    place.chmod(0o755)
    yield hpc.own(place)
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def unmounted(hpc: User) -> Iterator[Path]:
    """A directory for one test that Apptainer shows to no container by itself, unlike `shared`."""
    with machine.unmounted() as place:
        yield hpc.own(place)


@pytest.fixture(scope="session")
def sources(ground: Path, hpc: User) -> Path:
    """A copy of the project, as a fresh clone has it."""
    return hpc.own(machine.copy_sources(ground / "sources"))


@pytest.fixture(scope="session")
def sif(ground: Path, sources: Path, hpc: User) -> Path:
    """The Apptainer image; kept in .cache/deploy until something that goes into it changes."""
    machine.need("apptainer")
    place = ground / "neurotrale.sif"
    cached = machine.CACHE / f"neurotrale-{machine.inputs_hash()}.sif"
    if cached.is_file():
        shutil.copy(cached, place)
    else:
        quick = ["--mksquashfs-args", "-Xcompression-level 1"]
        hpc.run(
            ["apptainer", "build", *quick, *machine.sif_arguments(), place, "apptainer.def"],
            cwd=sources,
            timeout_s=machine.BUILD_PATIENCE_S,
        )
        machine.CACHE.mkdir(parents=True, exist_ok=True)
        for old in machine.CACHE.glob("*.sif"):
            old.unlink()
        shutil.copy(place, cached.with_suffix(".tmp"))
        cached.with_suffix(".tmp").replace(cached)
    place.chmod(0o644)
    return place


@pytest.fixture(scope="session")
def built(sources: Path, ground: Path) -> Iterator[tuple[str, str]]:
    """The Docker images of the service and of its proxy; then the engine publishes ports."""
    machine.need("docker", "curl")
    engine.switch("host")
    if machine.run(["docker", "version"], check=False).returncode != 0:
        machine.missing("no Docker engine answers")
    place = ground / "haproxy"
    place.mkdir()
    images = engine.build(sources), engine.build_proxy(place)
    engine.switch("netns")
    yield images
    engine.switch("host")


@pytest.fixture(scope="session")
def image(built: tuple[str, str]) -> str:
    """The Docker image of the service."""
    return built[0]


@pytest.fixture(scope="session")
def proxy_image(built: tuple[str, str]) -> str:
    """The Docker image of HAProxy."""
    return built[1]


@pytest.fixture
def data(shared: Path, hpc: User) -> Path:
    """A data root with one dataset, `brain`, that the ordinary user may write to."""
    write_dataset(shared / "data" / "brain")
    return hpc.own(shared / "data")


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_service() -> None:
    """A setting of whoever runs the tests would reach the services that they start."""
    for name in list(os.environ):
        if name.startswith(("APPTAINER", "SINGULARITY")) or name == "PRECOMPUTED_PATH":
            del os.environ[name]
