"""Datasets of single tests below the root of a running service, and clients that edit them."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from click.testing import CliRunner, Result

from neurotrale.cli import main
from tests.conftest import Service
from tests.processes import environment, neurotrale

Annotation = dict[str, Any]

# As Chromium sends them from a page of the viewer, on another port of the same machine.
PAGE = {
    "Origin": "http://localhost:8080",
    "Referer": "http://localhost:8080/",
    "Content-Type": "text/plain;charset=UTF-8",
    "Accept": "*/*",
}


def point(id_: str, x: float = 1, **more: Any) -> Annotation:
    """An annotation that breaks no rule."""
    return {"id": id_, "type": "point", "point": [x, 2, 3], **more}


@dataclass(frozen=True)
class Brain:
    """A dataset of one test, and a file of its block ``x0y0z0``."""

    service: Service
    name: str
    leaf: str = "fibers.json"

    @property
    def annotations(self) -> Path:
        return self.service.root / self.name / "annotations"

    @property
    def file(self) -> Path:
        return self.annotations / "x0y0z0" / self.leaf

    @property
    def filename(self) -> str:
        return f"{self.name}/annotations/x0y0z0/{self.leaf}"

    @property
    def url(self) -> str:
        return f"{self.service.url}/{self.filename}"

    def content(self) -> list[Annotation]:
        """What is in the file."""
        annotations: list[Annotation] = json.loads(self.file.read_bytes())
        return annotations

    def ids(self) -> set[str]:
        return {annotation["id"] for annotation in self.content()}

    def load(self, leaf: str | None = None, **headers: str) -> list[Annotation]:
        """Load a file as the viewer does, which it then has seen; nothing if there is none."""
        url = self.url if leaf is None else self.url.replace(self.leaf, leaf)
        answer = requests.get(url, headers={**PAGE, **headers})
        assert answer.status_code in (200, 404), answer.text
        annotations: list[Annotation] = answer.json() if answer.status_code == 200 else []
        return annotations

    def save(self, annotations: list[Annotation], **headers: str) -> dict[str, Any]:
        """Put the whole file as the viewer does, after any change."""
        answer = requests.put(self.url, data=compact(annotations), headers={**PAGE, **headers})
        assert answer.status_code in (200, 201), answer.text
        answered: dict[str, Any] = answer.json()
        return answered

    def put(self, annotations: list[Annotation]) -> None:
        """Put the whole file as a script does."""
        answer = requests.put(self.url, json=annotations)
        assert answer.status_code in (200, 201), answer.text

    def patch(self, annotation: Annotation) -> None:
        answer = requests.patch(self.url, params={"id": annotation["id"]}, json=annotation)
        assert answer.status_code in (200, 201), answer.text

    def delete(self, id_: str) -> None:
        answer = requests.delete(self.url, params={"id": id_})
        assert answer.status_code == 200, answer.text

    def held(self) -> list[str]:
        """The ids whose removal is held back."""
        answer = requests.get(f"{self.url}/held")
        assert answer.status_code == 200, answer.text
        return [annotation["id"] for annotation in answer.json()]

    def history(self, **parameters: Any) -> list[dict[str, Any]]:
        """The changes, newest first."""
        answer = requests.get(f"{self.url}/history", params=parameters)
        assert answer.status_code == 200, answer.text
        changes: list[dict[str, Any]] = answer.json()["changes"]
        return changes


def compact(value: object) -> bytes:
    """Write JSON as the viewer does."""
    return json.dumps(value, separators=(",", ":")).encode()


def new_brain(service: Service, content: bytes | None, leaf: str = "fibers.json") -> Brain:
    """Make a dataset with one annotation file, or none, that no service has changed yet."""
    brain = Brain(service, f"brain-{len(list(service.root.iterdir()))}", leaf)
    brain.file.parent.mkdir(parents=True)
    (brain.annotations / "block_info.csv").write_text("64,64,64\n")
    if content is not None:
        brain.file.write_bytes(content)
    return brain


def error_of(answer: requests.Response, status: int) -> str:
    """Hold the one shape of every error; give its description."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"title", "description"}
    return str(body["description"])


def cli(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own to its end; no error may show a traceback."""
    done = subprocess.run(
        neurotrale(*arguments),
        env=environment(more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def invoked(*arguments: str | Path) -> Result:
    """Run a command in this process; nothing may be raised that it does not tell as an error."""
    unset = dict.fromkeys(os.environ.keys() - environment().keys())
    return CliRunner().invoke(main, list(map(str, arguments)), env=unset, catch_exceptions=False)


def succeed(*arguments: str | Path) -> list[str]:
    """Run a command in this process, which must end well; give the lines that it printed."""
    done = invoked(*arguments)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()
