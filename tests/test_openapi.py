"""The OpenAPI document tells the truth about the service, and Swagger UI needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urljoin

import pytest
import requests
from openapi_spec_validator import OpenAPIV30SpecValidator

from neurotrale.web.app import create_app
from neurotrale.web.app_settings import AppSettings
from neurotrale.web.error_handlers import TABLE
from neurotrale.web.router import OrderedRouter
from tests.conftest import Service, StartService
from tests.datasets import write_dataset

METHODS = ("get", "put", "patch", "delete", "post", "head", "options", "trace")
# What any look below the data root may end in.
READING = {"403", "404", "414", "500", "503"}
WRITING = READING | {"400", "507"}


def write_examples(root: Path) -> None:
    """Write what the document takes its examples from."""
    annotations = write_dataset(root / "lab" / "mouse-3") / "annotations"
    shutil.copytree(annotations / "x0y0z0", annotations / "x1y0z0")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    root = tmp_path_factory.mktemp("openapi")
    write_examples(root)
    return start_service(root)


@pytest.fixture(scope="module")
def document(service: Service) -> dict[str, Any]:
    headers = {"Origin": "https://editor.example.org"}
    answer = requests.get(f"{service.url}/api/openapi.json", headers=headers, timeout=60)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    loaded: dict[str, Any] = answer.json()
    return loaded


def resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        found: Any = document
        for key in node["$ref"].removeprefix("#/").split("/"):
            found = found[key]
        node = found
    return node


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield path, method, operation


def parameters(document: dict[str, Any], operation: dict[str, Any]) -> list[dict[str, Any]]:
    return [resolve(document, parameter) for parameter in operation.get("parameters", [])]


# --- The document --------------------------------------------------------------------------------


def test_document_is_valid_openapi(document: dict[str, Any]) -> None:
    OpenAPIV30SpecValidator(document).validate()


def test_document_has_every_route_and_method_and_no_other(
    document: dict[str, Any], tmp_path: Path
) -> None:
    router = cast(OrderedRouter, create_app(AppSettings(tmp_path))._router)
    routed = {
        (route.uri_template, method.lower())
        for route in router.routes
        for method in route.own_methods
    }
    assert {(path, method) for path, method, _ in operations(document)} == routed


def test_document_has_every_error_of_the_table(document: dict[str, Any]) -> None:
    documented = {
        status for _, _, operation in operations(document) for status in operation["responses"]
    }
    assert {status.partition(" ")[0] for status, _ in TABLE.values()} <= documented


def test_document_has_what_every_look_below_the_data_root_may_end_in(
    document: dict[str, Any],
) -> None:
    for path, method, operation in operations(document):
        if "{" in path and path != "/api/{asset}":
            expected = READING if method == "get" else WRITING
            assert expected <= set(operation["responses"]), (method, path)


def test_document_gives_every_error_the_one_shape(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                content = resolve(document, response)["content"]
                assert set(content) == {"application/json"}, (method, path, status)
                schema = resolve(document, content["application/json"]["schema"])
                assert schema["required"] == ["title", "description"]


def test_document_says_when_to_try_again(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        if "503" in operation["responses"]:
            response = resolve(document, operation["responses"]["503"])
            assert "Retry-After" in response["headers"], (method, path)


def test_document_describes_every_operation_and_parameter(document: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    for path, method, operation in operations(document):
        assert operation["summary"], (method, path)
        assert set(operation["tags"]) <= tags
        named = {p["name"] for p in parameters(document, operation) if p["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path)), (method, path)


def test_document_has_examples_that_work(service: Service, document: dict[str, Any]) -> None:
    changed = f"{service.url}/lab/mouse-3/annotations/x1y0z0/fibers.json"
    assert requests.patch(changed, params={"id": "new"}, json={"type": "text"}).ok
    for path, method, operation in operations(document):
        if method != "get":
            continue
        target, query = path, {}
        for parameter in parameters(document, operation):
            if parameter["in"] == "query" and parameter.get("required"):
                query[parameter["name"]] = parameter["example"]
            if parameter["in"] == "path":
                if "example" in parameter:
                    example = parameter["example"]
                else:
                    example = parameter["schema"]["enum"][0]
                target = target.replace(f"{{{parameter['name']}}}", quote(str(example)))
        url = service.url + target
        answer = requests.get(url, params=query, timeout=60, allow_redirects=False)
        assert answer.status_code == min(map(int, operation["responses"])), target
        documented = resolve(document, operation["responses"][str(answer.status_code)])
        kinds = set(documented.get("content", ()))
        kind = answer.headers.get("Content-Type", "").partition(";")[0]
        assert not kinds or kinds & {kind, "*/*"}, target


# --- Swagger UI ----------------------------------------------------------------------------------


class Links(HTMLParser):
    """Collects what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("href", "src")]


def test_documentation_page_loads_local_assets_only(service: Service) -> None:
    page = requests.get(f"{service.url}/api/", timeout=60)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    links = Links()
    links.feed(page.text)
    assert len(links.found) >= 3
    for link in [*links.found, "openapi.json"]:
        # Relative, so that they hold behind a proxy that adds a prefix.
        assert re.match(r"[\w.-]+$", link), link
        answer = requests.get(urljoin(page.url, link), timeout=60)
        assert answer.status_code == 200, link
        assert answer.content
    assert "://" not in page.text
    assert '"openapi.json"' in page.text


def test_documentation_style_loads_nothing(service: Service) -> None:
    style = requests.get(f"{service.url}/api/swagger-ui.css", timeout=60).text
    loaded = re.findall(r"url\(\s*[\"']?([^)\"']*)", style)
    assert [link for link in loaded if not link.startswith("data:")] == []
    assert "@import" not in style


def test_documentation_without_slash_leads_to_the_page(service: Service) -> None:
    answer = requests.get(f"{service.url}/api", timeout=60)
    assert answer.url == f"{service.url}/api/"
    assert answer.status_code == 200


@pytest.mark.parametrize("asset", ["index.html", "swagger-ui.js", "..%2fopenapi.json", "x/y"])
def test_documentation_asset_that_is_not_needed_is_404(service: Service, asset: str) -> None:
    answer = requests.get(f"{service.url}/api/{asset}", timeout=60)
    assert answer.status_code == 404
    assert set(answer.json()) == {"title", "description"}


# --- Schemathesis, which makes up requests from the document -------------------------------------

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)
PHASES = ("examples", "fuzzing", "coverage", "stateful")


@pytest.mark.thorough
@pytest.mark.timeout(300)
@pytest.mark.long
def test_service_keeps_what_the_document_promises(
    pytestconfig: pytest.Config, tmp_path: Path, start_service: StartService, seed: int
) -> None:
    root = tmp_path / "data"
    write_examples(root)
    service = start_service(root, "--log-level", "warning")
    number, phases = (50, PHASES) if pytestconfig.option.long else (3, PHASES[:2])
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/api/openapi.json"]
    command += ["--checks", ",".join(CHECKS), "--seed", f"{seed}"]
    command += ["--max-examples", f"{number}", "--phases", ",".join(phases)]
    command += ["--generation-database", "none", "--continue-on-failure", "--no-color"]
    command += ["--warnings", "off"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert "unexpected error" not in service.log()
    assert "Traceback" not in service.log()
    service.stop()
    # Whatever was sent, what lies on disk are annotation files and nothing beside them.
    for path in root.rglob("*.json"):
        assert isinstance(json.loads(path.read_bytes()), list), path
