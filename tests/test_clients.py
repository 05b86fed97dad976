"""Other people's programs read what is served: every voxel of every scale, and nothing else."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import requests
import tensorstore
import tifffile

from tests.conftest import CopyDemo, Service, StartService
from tests.datasets import Voxels, boxes, gradient

with warnings.catch_warnings():
    # It and what it brings use what newer versions of their own libraries retire.
    warnings.simplefilter("ignore")
    from cloudvolume import CloudVolume

pytestmark = pytest.mark.clients

REAL_DATA = Path(__file__).resolve().parent.parent / ".cache" / "real-data"
MNI = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
CHUNK_VX = 64


@dataclass(frozen=True)
class Volume:
    """A dataset that is served, and what it was made of.

    Attributes:
        url: Of the dataset.
        scales: The voxels of each scale, finest first, as ``[channel, z, y, x]``.
    """

    url: str
    scales: list[Voxels]


def halve(voxels: Voxels) -> Voxels:
    """Take every second voxel: odd extents stay odd, and labels stay labels."""
    return voxels[:, ::2, ::2, ::2]


def write_volume(
    dataset: Path,
    scales: list[Voxels],
    *,
    kind: str = "image",
    resolution_nm: tuple[int, int, int] = (1000, 1000, 2000),
    offset_vx: tuple[int, int, int] = (0, 0, 0),
    chunk_vx: int = CHUNK_VX,
    **tiff: Any,
) -> None:
    """Write `info` and TIFF chunks, clipped at the ends of each scale.

    Args:
        scales: Voxels of each scale, finest first, as ``[channel, z, y, x]``.
        offset_vx: Where the finest scale begins (x, y, z); others than 0 for one scale only.
        tiff: Options of `tifffile.imwrite`.
    """
    described = []
    for level, voxels in enumerate(scales):
        channels, z, y, x = voxels.shape
        key = "_".join([str(2**level)] * 3)
        (dataset / key).mkdir(parents=True)
        for _, box in boxes((x, y, z), chunk_vx):
            chunk = voxels[(slice(None), *box)]
            name = "_".join(
                f"{ends.start + offset}-{ends.stop + offset}"
                for ends, offset in zip(reversed(box), offset_vx, strict=True)
            )
            tifffile.imwrite(
                dataset / key / f"{name}.tiff",
                chunk if channels > 1 else chunk[0],
                photometric="minisblack",
                metadata={"axes": "CZYX"} if channels > 1 else None,
                **{"compression": "zlib", **tiff},
            )
        described.append(
            {
                "key": key,
                "size": [x, y, z],
                "resolution": [nm * 2**level for nm in resolution_nm],
                "voxel_offset": offset_vx,
                "chunk_sizes": [[chunk_vx] * 3],
                "encoding": "raw",
            }
        )
    info = {
        "@type": "neuroglancer_multiscale_volume",
        "type": kind,
        "data_type": scales[0].dtype.name,
        "num_channels": scales[0].shape[0],
        "scales": described,
    }
    (dataset / "info").write_text(json.dumps(info))


def pyramid(voxels: Voxels, levels: int = 3) -> list[Voxels]:
    scales = [voxels]
    while len(scales) < levels:
        scales.append(halve(scales[-1]))
    return scales


def read_real(name: str) -> Voxels:
    path = REAL_DATA / name
    if not path.is_file():
        pytest.fail(f"{name} is not there: 'make real-data' fetches it")
    if name.endswith(".nii.gz"):
        measured: Voxels = nibabel.Nifti1Image.from_filename(path).dataobj[...]  # [x, y, z]
        return measured.T[np.newaxis]
    voxels: Voxels = tifffile.imread(path)
    return voxels[np.newaxis]


def synthetic(channels: int, dtype: str) -> Voxels:
    """Voxels with odd extents, more than one chunk in every axis of the finest scale."""
    voxels = np.stack([gradient((67, 71, 131), "uint32") + 7 * i for i in range(channels)])
    return (voxels * np.uint32(40503)).astype(dtype)


def segments() -> Voxels:
    """Objects with large ids, in a box that is 1 voxel thick at its edge."""
    labels = gradient((66, 66, 66), "uint32") // 4096
    return (labels[np.newaxis].astype("uint64") + 2**40) * (labels > 2)


SYNTHETIC: dict[str, Callable[[], tuple[list[Voxels], dict[str, Any]]]] = {
    "uint8": lambda: (pyramid(synthetic(1, "uint8")), {}),
    "uint16": lambda: (pyramid(synthetic(1, "uint16")), {"compression": "zstd"}),
    "lab/mouse-3/float32": lambda: (pyramid(synthetic(1, "float32"), 2), {"predictor": 3}),
    "lab/uint32": lambda: (pyramid(synthetic(1, "uint32"), 2), {"compression": "lzw"}),
    "channels/uint8": lambda: (pyramid(synthetic(3, "uint8"), 2), {}),
    "channels/uint16": lambda: (pyramid(synthetic(2, "uint16"), 2), {"byteorder": ">"}),
    "segments": lambda: (pyramid(segments()), {"kind": "segmentation"}),
    "uncompressed": lambda: (pyramid(synthetic(1, "uint16"), 2), {"compression": None}),
}
REAL: dict[str, Callable[[], tuple[list[Voxels], dict[str, Any]]]] = {
    "real/mni": lambda: (pyramid(read_real(MNI)), {"resolution_nm": (10**6,) * 3}),
    "real/nuclei": lambda: (pyramid(read_real("img3d.tif"), 2), {}),
    "real/nuclei-labels": lambda: (
        pyramid(read_real("mask3d.tif"), 2),
        {"kind": "segmentation"},
    ),
}
EVERYTHING = {**SYNTHETIC, **REAL}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    return start_service(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module", params=EVERYTHING)
def volume(request: pytest.FixtureRequest, service: Service) -> Volume:
    scales, options = EVERYTHING[request.param]()
    write_volume(service.root / request.param, scales, **options)
    return Volume(f"{service.url}/{request.param}", scales)


@pytest.fixture(scope="module")
def demo(service: Service, copy_demo: CopyDemo) -> Volume:
    """The demo dataset, as plain tifffile reads its chunks."""
    dataset = copy_demo(service.root)
    scales = []
    for scale in json.loads((dataset / "info").read_text())["scales"]:
        x, y, z = scale["size"]
        voxels = np.zeros((z, y, x), "uint16")
        for name, box in boxes((x, y, z)):
            voxels[box] = tifffile.imread(dataset / scale["key"] / f"{name}.tiff")
        scales.append(voxels[np.newaxis])
    return Volume(f"{service.url}/{dataset.name}", scales)


# --- The clients ---------------------------------------------------------------------------------

Open = Callable[[str, int], Any]


def open_tensorstore(url: str, scale: int) -> Any:
    spec = {"driver": "neuroglancer_precomputed", "kvstore": f"{url}/", "scale_index": scale}
    # By default it repeats for minutes what was answered with 500.
    context = {"http_request_retries": {"max_retries": 2, "initial_delay": "1ms"}}
    return tensorstore.open({**spec, "context": context}, open=True, read=True).result()


def open_cloudvolume(url: str, scale: int, **options: Any) -> Any:
    return CloudVolume(f"precomputed://{url}", mip=scale, cache=False, progress=False, **options)


def read(opened: Any, *box: slice) -> Voxels:
    """Read a box (x, y, z) of a scale, or all of it, as ``[channel, z, y, x]``."""
    box = box or (slice(None),) * 3
    voxels = opened[box]
    if isinstance(opened, tensorstore.TensorStore):
        voxels = voxels.read().result()
    return np.asarray(voxels).T


CLIENTS: dict[str, Open] = {"tensorstore": open_tensorstore, "cloud-volume": open_cloudvolume}


@pytest.fixture(params=CLIENTS)
def open_scale(request: pytest.FixtureRequest) -> Open:
    return CLIENTS[request.param]


def assert_all_equal(open_scale: Open, volume: Volume) -> None:
    for number, expected in enumerate(volume.scales):
        found = read(open_scale(volume.url, number))
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected), f"scale {number}"


@pytest.mark.quick(4)
def test_client_reads_every_voxel_of_every_scale(volume: Volume, open_scale: Open) -> None:
    assert_all_equal(open_scale, volume)


@pytest.mark.quick(1)
def test_client_reads_every_voxel_of_the_demo(demo: Volume, open_scale: Open) -> None:
    assert_all_equal(open_scale, demo)


# --- Boxes, gaps and damage ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(service: Service) -> tuple[Path, Voxels]:
    """A volume of 2 x 2 x 2 chunks that does not begin at the origin, and its directory."""
    voxels = synthetic(1, "uint16")[:, :40, :40, :40]
    dataset = service.root / "small"
    write_volume(dataset, [voxels], chunk_vx=32, offset_vx=(-100, 20, 7))
    return dataset, voxels


@pytest.mark.parametrize(
    "box",
    [
        pytest.param(((-100, -99), (20, 21), (7, 8)), id="first-voxel"),
        pytest.param(((-61, -60), (59, 60), (46, 47)), id="last-voxel"),
        pytest.param(((-90, -61), (33, 59), (8, 45)), id="across-chunks"),
        pytest.param(((-69, -67), (51, 53), (38, 40)), id="around-a-corner"),
    ],
)
def test_client_reads_any_box_of_a_volume_with_an_offset(
    service: Service,
    small: tuple[Path, Voxels],
    open_scale: Open,
    box: tuple[tuple[int, int], ...],
) -> None:
    _, voxels = small
    found = read(open_scale(f"{service.url}/small", 0), *(slice(*ends) for ends in box))
    x, y, z = (
        slice(begin - offset, end - offset)
        for (begin, end), offset in zip(box, (-100, 20, 7), strict=True)
    )
    assert np.array_equal(found, voxels[:, z, y, x])


def test_client_takes_an_absent_chunk_for_empty_space(
    service: Service, small: tuple[Path, Voxels]
) -> None:
    dataset, voxels = small
    url = f"{service.url}/with-gap"
    copy = shutil.copytree(dataset, service.root / "with-gap")
    (copy / "1_1_1" / "-68--60_20-52_7-39.tiff").unlink()
    expected = voxels.copy()
    expected[:, :32, :32, 32:] = 0
    assert np.array_equal(read(open_tensorstore(url, 0)), expected)
    assert np.array_equal(read(open_cloudvolume(url, 0, fill_missing=True)), expected)


def test_client_does_not_take_a_damaged_chunk_for_empty_space(
    service: Service, small: tuple[Path, Voxels], monkeypatch: pytest.MonkeyPatch
) -> None:
    # cloud-volume, too, asks again and again; it need not wait in between.
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda seconds: None))
    dataset, _ = small
    url = f"{service.url}/damaged"
    copy = shutil.copytree(dataset, service.root / "damaged")
    chunk = copy / "1_1_1" / "-68--60_20-52_7-39.tiff"
    chunk.write_bytes(chunk.read_bytes()[:1000])
    with pytest.raises(ValueError, match="500"):
        read(open_tensorstore(url, 0))
    with pytest.raises(requests.HTTPError, match="500"):
        read(open_cloudvolume(url, 0, fill_missing=True))


# --- Datasets that these programs wrote themselves, on disk -------------------------------------


@pytest.mark.parametrize("compress", ["gzip", "br", False], ids=["gz", "br", "plain"])
def test_client_reads_what_cloudvolume_wrote(
    service: Service, open_scale: Open, compress: str | bool
) -> None:
    voxels = synthetic(1, "uint16")
    dataset = service.root / f"cloudvolume-{compress}-{open_scale.__name__}"
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="image",
        data_type="uint16",
        encoding="raw",
        resolution=(1000, 1000, 2000),
        voxel_offset=(0, 0, 0),
        volume_size=voxels.shape[:0:-1],
        chunk_size=(64, 64, 64),
    )
    writer = CloudVolume(f"file://{dataset}", info=info, compress=compress, progress=False)
    writer.commit_info()
    writer[:, :, :] = voxels.T
    found = read(open_scale(f"{service.url}/{dataset.name}", 0))
    assert np.array_equal(found, voxels)


@pytest.mark.parametrize("sharded", [False, True], ids=["chunks", "shards"])
def test_client_reads_what_tensorstore_wrote(
    service: Service, open_scale: Open, sharded: bool
) -> None:
    voxels = synthetic(2, "uint16")
    dataset = service.root / f"tensorstore-{sharded}-{open_scale.__name__}"
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": 1,
        "hash": "identity",
        "minishard_bits": 2,
        "shard_bits": 2,
        "minishard_index_encoding": "gzip",
        "data_encoding": "gzip",
    }
    writer = tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": f"file://{dataset}/",
            "multiscale_metadata": {"data_type": "uint16", "num_channels": 2, "type": "image"},
            "scale_metadata": {
                "size": voxels.shape[:0:-1],
                "encoding": "raw",
                "chunk_size": [64, 64, 64],
                "resolution": [1000, 1000, 2000],
                **({"sharding": sharding} if sharded else {}),
            },
        },
        create=True,
    ).result()
    writer.write(voxels.T).result()
    assert any(dataset.rglob("*.shard")) == sharded
    found = read(open_scale(f"{service.url}/{dataset.name}", 0))
    assert np.array_equal(found, voxels)
