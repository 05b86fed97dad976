"""A client that is generated from the OpenAPI document works against the service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from tests.conftest import Service, StartService
from tests.datasets import write_dataset

# The generator knows neither of these kinds of content by itself.
CONFIG = {
    "content_type_overrides": {
        "application/x-ndjson": "text/plain",
        "image/png": "application/octet-stream",
    },
    "post_hooks": [],
}
FILE = {"dataset": "lab/mouse-3", "block": "x0y0z0", "leaf": "fibers"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    root = tmp_path_factory.mktemp("generated")
    write_dataset(root / "lab" / "mouse-3")
    return start_service(root)


@pytest.fixture(scope="module")
def package(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The package of a freshly generated client."""
    directory = tmp_path_factory.mktemp("client")
    (directory / "openapi.json").write_bytes(
        requests.get(f"{service.url}/api/openapi.json", timeout=60).content
    )
    (directory / "config.yaml").write_text(json.dumps(CONFIG))
    generator = Path(sysconfig.get_path("scripts")) / "openapi-python-client"
    done = subprocess.run(
        [generator, "generate", "--path", "openapi.json", "--config", "config.yaml",
         "--output-path", directory / "neurotrale_client", "--meta", "none", "--fail-on-warning"],
        cwd=directory, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "TERM": "dumb"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout, done.stdout
    sys.path.insert(0, str(directory))
    invalidate_caches()
    yield "neurotrale_client"
    sys.path.remove(str(directory))


@pytest.fixture(scope="module")
def client(package: str, service: Service) -> Iterator[Any]:
    connection = import_module(package).Client(base_url=service.url)
    with connection as client:
        yield client


def operation(package: str, name: str) -> Any:
    return import_module(f"{package}.api.{name}")


def test_generated_client_reads_a_chunk(client: Any, package: str, service: Service) -> None:
    get_chunk = operation(package, "image_chunks.get_chunk")
    info = requests.get(f"{service.url}/lab/mouse-3/info", timeout=60).json()
    size = np.minimum(info["scales"][0]["size"], info["scales"][0]["chunk_sizes"][0])
    chunk = "_".join(f"0-{side}" for side in size)
    found = get_chunk.sync(client=client, dataset="lab/mouse-3", scale="1_1_1", chunk=chunk)
    voxels = np.frombuffer(found.payload.read(), info["data_type"])
    assert voxels.size == np.prod(size)
    expected = requests.get(f"{service.url}/lab/mouse-3/1_1_1/{chunk}", timeout=60).content
    assert voxels.tobytes() == expected


def test_generated_client_puts_patches_searches_and_restores(client: Any, package: str) -> None:
    models = import_module(f"{package}.models")

    def annotation(id_: str, x: float) -> Any:
        return models.Annotation.from_dict(
            {"id": id_, "type": "point", "anntype": "neuron", "point": [x, 2, 3]}
        )

    put = operation(package, "annotations.put_annotations").sync(
        client=client, **FILE, body=[annotation("a", 1), annotation("b", 2)]
    )
    assert put.filename == "lab/mouse-3/annotations/x0y0z0/fibers.json"
    patched = operation(package, "annotations.patch_annotation").sync(
        client=client, **FILE, id="c", body=annotation("c", 3)
    )
    assert patched.id == "c"
    gone = operation(package, "annotations.delete_annotation").sync(client=client, **FILE, id="a")
    assert gone.id == "a"
    get = operation(package, "annotations.get_annotations")
    assert [one.id for one in get.sync(client=client, **FILE)] == ["b", "c"]
    assert get.sync(client=client, **FILE, id="b").to_dict()["point"] == [2, 2, 3]
    search = operation(package, "annotations.search_annotations")
    hits = search.sync_detailed(client=client, dataset="lab/mouse-3", bbox="3,0,0,3,9,9")
    assert b'"c"' in hits.content

    for _ in range(2):  # the second time, it is only answered again
        many = operation(package, "annotations.patch_annotation").sync(
            client=client,
            **FILE,
            body=[annotation("d", 4), annotation("b", 2)],
            idempotency_key="many",
        )
        assert (many.ids, many.created) == (["d", "b"], ["d"])
    new_only = operation(package, "annotations.patch_annotation").sync_detailed(
        client=client, **FILE, id="d", body=annotation("d", 4), if_none_match="*"
    )
    assert new_only.status_code == 412
    delete = operation(package, "annotations.delete_annotation")
    assert delete.sync(client=client, **FILE, id=["b", "d"]).ids == ["b", "d"]

    history = operation(package, "history.get_history").sync(client=client, **FILE)
    assert [change.operation for change in history.changes] == [
        "delete",
        "patch",
        "delete",
        "patch",
        "put",
    ]
    assert history.changes[1].operations == ["many"]
    assert history.changes[0].counts.removed == 2
    restore = operation(package, "history.restore")
    restore.sync(client=client, **FILE, id="a", body=models.RestoreBody())
    assert [one.id for one in get.sync(client=client, **FILE)] == ["c", "a"]


def test_generated_client_gives_an_error_as_a_value(client: Any, package: str) -> None:
    get = operation(package, "annotations.get_annotations")
    error = get.sync(client=client, **{**FILE, "leaf": "none"})
    assert error.title
    assert "none.json" in error.description


def test_generated_client_has_a_function_of_its_name_for_every_operation(
    package: str, service: Service
) -> None:
    document = requests.get(f"{service.url}/api/openapi.json", timeout=60).json()
    names = [
        operation["operationId"]
        for item in document["paths"].values()
        for operation in item.values()
    ]
    assert len(names) == len(set(names))
    assert {"getChunk", "getAnnotations", "putAnnotations", "patchAnnotation"} <= set(names)
