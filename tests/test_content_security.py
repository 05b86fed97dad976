"""Files among the data are shown by browsers, and run nothing: no script, no request elsewhere."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, Page, Route
from playwright.sync_api import Error as BrowserError

from tests.chromium import running_chromium
from tests.conftest import Service, StartService
from tests.datasets import write_dataset
from tests.pictures import screenshot

POLICY = "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"
TOKEN = "tok-" + "0123456789abcdef" * 2

KINDS = """
a.html a.htm a.HTML a.xhtml a.xht a.shtml a.svg a.SVG a.svgz a.xml a.XML a.Xml a.ome.xml a.xsl
a.xslt a.rdf a.rss a.atom a.owl a.wsdl a.xsd a.dtd a.mathml a.xul a.vml a.mht a.mhtml a.eml a.js
a.mjs a.css a.wasm a.pdf a.swf a.txt a.md a.log a.json a.csv a.swc a.png a.jpg a.gif a.bmp a.ico
a.webp a.mp4 a.ogg a.tif a.tiff a.nii a.bin a.unknown no-extension info a%20b%3F.xml %C3%A9.xml
"""
NAMES = KINDS.split()
BODY = b"<html xmlns='http://www.w3.org/1999/xhtml'><script>1</script></html>"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a file of each kind, one stored compressed of each, and a dataset."""
    root = tmp_path_factory.mktemp("policy") / "data"
    for directory in ("plain", "packed"):
        (root / directory).mkdir(parents=True)
    for name in map(unquote, NAMES):
        (root / "plain" / name).write_bytes(BODY)
        (root / "packed" / f"{name}.gz").write_bytes(gzip.compress(BODY))
    (root / "plain" / "empty.xml").touch()
    (root / "packed" / "broken.xml.gz").write_bytes(b"no gzip")
    dataset = write_dataset(root / "brain")
    (dataset / "preview.png").write_bytes(picture("red"))
    (dataset / "1_1_1" / "0-1_0-1_0-1").write_bytes(BODY)
    (dataset / "annotations" / "loose.json").write_bytes(b"[]")
    return root


@pytest.fixture(scope="module")
def service(root: Path, start_service: StartService) -> Service:
    return start_service(root)


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(file, "PNG")
    return file.getvalue()


def policy_of(answer: requests.Response) -> str | None:
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    return answer.headers.get("Content-Security-Policy")


# --- the header ---


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_about_a_file_has_the_policy(service: Service, name: str) -> None:
    plain, packed = f"{service.url}/plain/{name}", f"{service.url}/packed/{name}"
    whole = requests.get(plain)
    etag = whole.headers["ETag"]
    gz = {"Accept-Encoding": "gzip"}
    identity = {"Accept-Encoding": "identity"}
    twin = requests.get(packed, headers=gz)
    answers = {
        "whole": (200, whole),
        "head": (200, requests.head(plain)),
        "with-a-query": (200, requests.get(f"{plain}?token=t&position=1,2,3")),
        "part": (206, requests.get(plain, headers={"Range": "bytes=0-4"})),
        "beyond": (416, requests.get(plain, headers={"Range": "bytes=9999-"})),
        "known": (304, requests.get(plain, headers={"If-None-Match": etag})),
        "known-head": (304, requests.head(plain, headers={"If-None-Match": etag})),
        "twin": (200, twin),
        "twin-head": (200, requests.head(packed, headers=gz)),
        "twin-known": (
            304,
            requests.get(packed, headers={**gz, "If-None-Match": twin.headers["ETag"]}),
        ),
        "twin-unpacked": (200, requests.get(packed, headers=identity)),
        "twin-part": (206, requests.get(packed, headers={**identity, "Range": "bytes=0-4"})),
        "twin-itself": (200, requests.get(f"{packed}.gz")),
        "missing": (404, requests.get(f"{service.url}/{name}")),
    }
    found = {kind: (answer.status_code, policy_of(answer)) for kind, (_, answer) in answers.items()}
    assert found == {kind: (status, POLICY) for kind, (status, _) in answers.items()}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("plain/empty.xml", 200),
        ("packed/broken.xml", 500),
        (".hidden.xml", 404),
        ("brain/info", 200),
        ("brain/preview.png", 200),
        ("api/datasets/brain/preview.png", 200),
        ("brain/1_1_1/0-64_0-64_0-64.tiff", 200),
        ("brain/1_1_1/0-1_0-1_0-2.tiff", 404),
        ("brain/1_1_1/0-1_0-1_0-1", 200),
        ("brain/annotations/block_info.csv", 200),
        ("brain/annotations/loose.json", 200),
        ("brain/annotations/x0y0z0/fibers.json", 200),
        ("brain/annotations/x0y0z0/absent.json", 404),
    ],
)
def test_file_that_another_resource_sends_has_the_policy(
    service: Service, path: str, status: int
) -> None:
    for method in ("GET", "HEAD"):
        answer = requests.request(
            method, f"{service.url}/{path}", headers={"Accept-Encoding": "identity"}
        )
        assert (answer.status_code, policy_of(answer)) == (status, POLICY)


@pytest.mark.parametrize("path", ["", "plain/", "brain/", "api/datasets/brain/open"])
def test_page_of_the_service_has_its_own_policy(service: Service, path: str) -> None:
    policy = policy_of(requests.get(f"{service.url}/{path}"))
    assert policy is not None
    assert "script-src 'self'" in policy
    assert "sandbox" not in policy


# --- what a browser does ---

SCRIPT = """
document.cookie = "ran=1";
new Image().src = "/marker/image?" + location;
fetch("/marker/fetch?" + location).catch(() => {});
"""
XHTML = "http://www.w3.org/1999/xhtml"
HTML = f"<!DOCTYPE html><body onload='fetch(\"/marker/onload\")'><script>{SCRIPT}</script>"
XML = (
    f'<?xml version="1.0"?><OME><script xmlns="{XHTML}"><![CDATA[{SCRIPT}]]></script>'
    f'<img xmlns="{XHTML}" src="x" onerror="fetch(\'/marker/onerror\')"/></OME>'
)
SVG = f'<svg xmlns="http://www.w3.org/2000/svg"><script><![CDATA[{SCRIPT}]]></script></svg>'
XSL = (
    '<?xml version="1.0"?><xsl:stylesheet version="1.0"'
    ' xmlns:xsl="http://www.w3.org/1999/XSL/Transform"><xsl:template match="/">'
    f"<html><body><script><![CDATA[{SCRIPT}]]></script></body></html>"
    "</xsl:template></xsl:stylesheet>"
)
STYLED = '<?xml version="1.0"?><?xml-stylesheet type="text/xsl" href="look.xsl"?><OME/>'
MHT = (
    "MIME-Version: 1.0\r\nContent-Type: multipart/related; boundary=b\r\n\r\n--b\r\n"
    f"Content-Type: text/html\r\n\r\n{HTML}\r\n--b--\r\n"
)

# Documents that run their script where nothing forbids it, in the Chromium that is at hand.
ACTIVE = {
    "page.html": HTML,
    "page.htm": HTML,
    "page.HTML": HTML,
    "picture.svg": SVG,
    "plain.xml": XML,
    "plain.XML": XML,
    "plain.xsl": XML,
    "plain.rdf": XML,
    "scan.ome.xml": XML,
    "styled.xml": STYLED,
}
INERT = {
    "no-extension": HTML,
    "page.json": HTML,
    "page.txt": HTML,
    "page.csv": HTML,
    "page.unknown": HTML,
    "page.xhtml": f'<html xmlns="{XHTML}"><script><![CDATA[{SCRIPT}]]></script></html>',
    "page.mht": MHT,
    "page.mhtml": MHT,
    "page.png": HTML,
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    """A service with tokens, and documents of somebody else below its data root."""
    place = tmp_path_factory.mktemp("guarded")
    root = place / "data"
    (root / "packed").mkdir(parents=True)
    for name, content in {**ACTIVE, **INERT, "look.xsl": XSL}.items():
        (root / name).write_text(content)
        (root / "packed" / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    tokens = place / "tokens"
    tokens.write_text(f"anna:rw:{TOKEN}\n")
    tokens.chmod(0o600)
    return start_service(root, "--token-file", str(tokens))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 200, "height": 200})
    yield context.new_page()
    context.close()


def opened(page: Page, url: str) -> None:
    """Open a document; when that is done, its scripts have run, and each has asked for markers."""
    with suppress(BrowserError):  # what is not shown is saved instead
        page.goto(url)
    screenshot(page)


def without_policy(route: Route) -> None:
    answer = route.fetch()
    kept = {k: v for k, v in answer.headers.items() if k != "content-security-policy"}
    route.fulfill(response=answer, headers=kept)


@pytest.mark.browser
@pytest.mark.parametrize("name", ACTIVE)
@pytest.mark.long
def test_document_would_run_its_script_without_the_policy(
    guarded: Service, page: Page, name: str
) -> None:
    page.route(lambda url: "/marker/" not in url, without_policy)
    with page.expect_request("**/marker/**") as sent:
        opened(page, f"{guarded.url}/token/{TOKEN}/{name}")
    assert TOKEN in sent.value.url
    assert [cookie["name"] for cookie in page.context.cookies()] == ["ran"]


@pytest.mark.quick(1)
@pytest.mark.browser
@pytest.mark.parametrize(
    "path", [f"token/{TOKEN}/{{}}", f"packed/{{}}?token={TOKEN}"], ids=["file", "twin"]
)
@pytest.mark.parametrize("name", [*ACTIVE, *INERT])
def test_document_among_the_data_runs_no_script(
    guarded: Service, page: Page, name: str, path: str
) -> None:
    before = guarded.log().count("/marker/")
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    url = f"{guarded.url}/{path.format(name)}"
    opened(page, url)
    assert asked[0] == url
    assert not any("/marker/" in other for other in asked)
    assert page.context.cookies() == []
    assert guarded.log().count("/marker/") == before


@dataclass
class Elsewhere:
    """Another site, and what it was asked for."""

    url: str = ""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    site = Elsewhere()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(f"{self.path} {self.headers.get('Referer', '')}")
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        site.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield site
        server.shutdown()
        thread.join()


@pytest.mark.long
@pytest.mark.browser
def test_page_among_the_data_tells_no_other_site_where_it_is(
    guarded: Service, page: Page, elsewhere: Elsewhere
) -> None:
    there = f'{elsewhere.url}/leak" referrerpolicy="unsafe-url'
    (guarded.root / "leak.html").write_text(
        '<!DOCTYPE html><meta name="referrer" content="unsafe-url">'
        f'<meta http-equiv="refresh" content="0;url={elsewhere.url}/refresh">'
        f'<link rel="stylesheet" href="{there}"><link rel="icon" href="{there}">'
        f'<link rel="prefetch" href="{there}"><link rel="preload" as="image" href="{there}">'
        f'<link rel="modulepreload" href="{there}"><link rel="manifest" href="{there}">'
        f"<style>@import url({elsewhere.url}/import);"
        f" @font-face {{ font-family: f; src: url({elsewhere.url}/font) }}"
        f" body {{ font-family: f; background: url({elsewhere.url}/background) }}</style>"
        f'<body>text<img src="{there}"><video poster="{there}" src="{there}" autoplay></video>'
        f'<iframe src="{there}"></iframe><object data="{elsewhere.url}/object"></object>'
        f'<embed src="{elsewhere.url}/embed"><audio src="{there}" autoplay></audio>'
    )
    page.goto(f"{guarded.url}/token/{TOKEN}/leak.html", wait_until="networkidle")
    assert elsewhere.asked == []
    assert page.url == f"{guarded.url}/token/{TOKEN}/leak.html"


@pytest.mark.browser
def test_page_among_the_data_shows_its_styles_and_pictures(service: Service, page: Page) -> None:
    (service.root / "red.png").write_bytes(picture("red"))
    (service.root / "report.html").write_text(
        "<!DOCTYPE html><style>body { margin: 0; background: #00ff00 }</style>"
        '<img src="red.png" style="display: block; margin-left: 100px">'
    )
    page.goto(f"{service.url}/report.html", wait_until="networkidle")
    drawn = Image.open(io.BytesIO(screenshot(page))).convert("RGB")
    assert drawn.getpixel((120, 20)) == (255, 0, 0)
    assert drawn.getpixel((20, 20)) == drawn.getpixel((120, 100)) == (0, 255, 0)
