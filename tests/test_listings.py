"""Directory pages: links that people, Neuroglancer's completion and scripts can follow."""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit

import pytest
import requests

from neurotrale.storage.data_root import DirectoryEntry
from neurotrale.web.pages import SORTED_ENTRIES, directory_page, index_page
from tests.conftest import Service, StartService
from tests.datasets import write_dataset
from tests.processes import REPOSITORY, run
from tests.test_http import ask

MANY = 100_000

NASTY = {
    "space": "with space.txt",
    "space-before": " before",
    "space-after": "after ",
    "double-quote": 'double"quote',
    "single-quote": "single'quote",
    "end-of-attribute": '"><script>alert(1)<',
    "event-handler": '" onmouseover="alert(1)',
    "ampersand": "a&b",
    "entity": "a&amp;b&lt;c&#39;d",
    "less-greater": "<b>bold<i>",
    "comment": "<!-- a --",
    "hash": "hash#tag",
    "question": "what?x=1&y=2",
    "percent": "100%",
    "percent-code": "%41%2f%2e%2e",
    "percent-nonsense": "%zz%",
    "plus": "a+b",
    "colon": "a:b",
    "colon-first": ":a",
    "scheme": "javascript:alert(1)",
    "scheme-http": "http:",
    "scheme-data": "data:text,脑",
    "mesh-fragment": "1:0:0-64_0-64_0-64",
    "drive": "C:",
    "semicolon": "a;b=c",
    "equals": "a=b",
    "brackets": "[a]",
    "braces": "{a}{0}{title}",
    "percent-format": "%s %(a)s",
    "shell": "$(id)`id`|*!",
    "at": "@a",
    "comma": "a,b",
    "caret": "a^b",
    "dash": "-leading-dash",
    "tilde": "~root",
    "dots-inside": "a..b",
    "dots-after": "a..",
    "umlaut": "Gehirn für Übermorgen",
    "decomposed": "u\u0308ber",
    "han": "脑图",
    "arabic": "دماغ",
    "emoji": "🧠.raw",
    "right-to-left": "a\u202etxt.exe",
    "no-break-space": "a\u00a0b",
    "zero-width": "a\u200bb",
    "line-separator": "a\u2028b",
    "next-line": "a\u0085b",
    "replacement": "a\ufffdb",
    "fullwidth-dots": "\uff0e\uff0e",
    "division-slash": "a\u2215b",
    "longest": "n" * 255,
    "longest-umlauts": "ü" * 127,
    "index.html": "index.html",
    "api": "api",
}
NASTY_NAMES = [pytest.param(name, id=id_) for id_, name in NASTY.items()]


class Links(HTMLParser):
    """Collects the links of a page: href -> text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.hrefs: list[str] = []
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "a":
            assert [name for name, _ in attrs] == ["href"]
            self.hrefs.append(dict(attrs)["href"] or "")
            self.texts.append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "a"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[-1] += data


class Targets(HTMLParser):
    """What a page leads to and loads.

    Attributes:
        found: The targets, as they are written.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v or "" for name, v in attrs if name in ("href", "src") and v != "data:,"]


def all_below(
    start: str, headers: dict[str, str], *more: str, but: Callable[[str], bool] = lambda url: False
) -> set[str]:
    """Open all that pages lead to and load, which must be below the first one.

    Args:
        start: The URL of the first page.
        headers: The headers of all requests.
        more: The URLs of other pages to begin with.
        but: Returns whether a URL is left out.

    Returns:
        The URLs.
    """
    queue, seen = [start, *more], set[str]()
    while queue:
        url = queue.pop()
        seen.add(url)
        with requests.get(url, headers=headers, stream=True) as answer:
            assert answer.status_code == 200, url
            if answer.headers["Content-Type"].startswith("text/html"):
                for href in Targets(answer.text).found:
                    target = urljoin(answer.url, href)
                    if target not in seen and not but(target):
                        assert target.startswith(start)
                        queue.append(target)
    return seen


def links_of(page: str) -> Links:
    links = Links()
    links.feed(page)
    links.close()
    return links


def get_links(url: str) -> dict[str, str]:
    """Fetch a page; give its links as text -> absolute URL."""
    response = requests.get(url, timeout=30)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    links = links_of(response.content.decode("utf-8"))
    assert len(set(links.hrefs)) == len(links.hrefs)
    return {
        text: urljoin(response.url, href)
        for text, href in zip(links.texts, links.hrefs, strict=True)
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets, also nested; nasty names; things that are never shown."""
    base = tmp_path_factory.mktemp("listings")
    outside = base / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    root = base / "data"
    write_dataset(root / "brain")
    write_dataset(root / "lab" / "mouse-3", (8, 8, 8))
    (root / "lab" / "mouse <4>" / "annotations").mkdir(parents=True)
    for directory in ("files", "directories", "empty"):
        (root / directory).mkdir()
    for name in NASTY.values():
        (root / "files" / name).write_text(f"content of {name}")
        (root / "directories" / name).mkdir()
        (root / "directories" / name / "inside.txt").write_text(f"inside {name}")
    mixed = root / "mixed"
    mixed.mkdir()
    (mixed / "seen.txt").write_text("seen")
    (mixed / ".hidden").write_text("hidden")
    (mixed / ".hidden-directory").mkdir()
    (mixed / ".fibers.json.lock").write_text("")
    (mixed / ".tmp-1-0-fibers.json").write_text("")
    (mixed / "back\\slash").write_text("")
    (mixed / "new\nline").write_text("")
    Path(os.fsdecode(bytes(mixed) + b"/latin-\xe9")).write_text("")
    os.mkfifo(mixed / "pipe")
    (mixed / "link-inside").symlink_to("seen.txt")
    (mixed / "link-to-directory").symlink_to("../empty")
    (mixed / "link-broken").symlink_to("none")
    (mixed / "link-outside").symlink_to(outside / "secret.txt")
    (mixed / "link-to-directory-outside").symlink_to(outside)
    (mixed / "link-chained").symlink_to("link-outside")
    return root


@pytest.fixture(scope="module")
def service(root: Path, start_service: StartService) -> Service:
    return start_service(root)


# --- Links ---


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_link_of_a_file_leads_to_its_bytes(service: Service, name: str) -> None:
    url = get_links(f"{service.url}/files/")[name]
    assert url == f"{service.url}/files/{quote(name)}"
    answer = ask(service, urlsplit(url).path)
    assert (answer.status, answer.body) == (200, f"content of {name}".encode())


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_link_of_a_directory_ends_in_a_slash_and_leads_to_its_page(
    service: Service, name: str
) -> None:
    url = get_links(f"{service.url}/directories/")[f"{name}/"]
    assert url == f"{service.url}/directories/{quote(name)}/"
    inside = get_links(url)["inside.txt"]
    answer = ask(service, urlsplit(inside).path)
    assert (answer.status, answer.body) == (200, f"inside {name}".encode())


def test_nasty_names_add_no_tags_to_the_page(service: Service) -> None:
    plain = links_of(requests.get(f"{service.url}/empty/", timeout=30).text).tags
    for path in ("files", "directories", *(f"directories/{quote(n)}" for n in NASTY.values())):
        page = requests.get(f"{service.url}/{path}/", timeout=30).content.decode("utf-8")
        assert links_of(page).tags == plain


PAGES = {
    "index": "/",
    "index.html": "/index.html",
    "dataset": "/brain/",
    "scale": "/brain/1_1_1/",
    "annotations": "/brain/annotations/",
    "block": "/brain/annotations/x0y0z0/",
    "nested": "/lab/",
    "empty": "/empty/",
    "nasty-files": "/files/",
    "nasty-directories": "/directories/",
    "nasty-itself": f"/directories/{quote(NASTY['scheme'])}/",
}


@pytest.mark.parametrize("path", [pytest.param(path, id=id_) for id_, path in PAGES.items()])
def test_every_link_is_relative_and_leads_below_the_page_or_up(service: Service, path: str) -> None:
    """Neuroglancer's completion takes the links that resolve below the page's URL."""
    url = service.url + path
    page = requests.get(url, timeout=30).content.decode("utf-8")
    links = links_of(page)
    below = urljoin(url, "./")
    for href in links.hrefs:
        assert href.isascii()
        assert not urlsplit(href).scheme
        assert not urlsplit(href).netloc
        assert not href.startswith("/")
        assert not set(href) & set(" \"'<>\\^`{|}?#")
        if href != "../":
            resolved = urljoin(url, href)
            assert resolved.startswith(below)
            assert resolved != below
    assert links.hrefs.count("../") == (0 if path in ("/", "/index.html") else 1)


@pytest.mark.parametrize("path", [pytest.param(path, id=id_) for id_, path in PAGES.items()])
def test_every_link_works(service: Service, path: str) -> None:
    url = service.url + path
    for link in get_links(url).values():
        assert ask(service, urlsplit(link).path, method="HEAD").status == 200


def test_links_stay_below_a_prefix_that_a_proxy_took_off(service: Service) -> None:
    page = requests.get(f"{service.url}/brain/", timeout=30).text
    base = "https://example.org/token/abc/brain/"
    resolved = {urljoin(base, href) for href in links_of(page).hrefs}
    assert resolved == {
        "https://example.org/token/abc/",
        f"{base}info",
        f"{base}1_1_1/",
        f"{base}annotations/",
    }


# --- What is shown ---


def test_listing_shows_what_can_be_got_and_nothing_else(service: Service) -> None:
    assert set(get_links(f"{service.url}/mixed/")) == {
        "../",
        "seen.txt",
        "link-inside",
        "link-to-directory/",
    }


@pytest.mark.parametrize(
    "target",
    [
        ".hidden",
        ".hidden-directory/",
        ".hidden-directory",
        ".fibers.json.lock",
        "back%5cslash",
        "new%0aline",
        "latin-%e9",
        "pipe",
        "link-broken",
        "link-outside",
        "link-to-directory-outside/",
        "link-to-directory-outside",
        "link-chained",
    ],
)
def test_what_a_listing_leaves_out_cannot_be_got_either(service: Service, target: str) -> None:
    assert ask(service, f"/mixed/{target}").status == 404


def test_links_out_of_the_root_are_shown_when_they_are_followed(
    root: Path, start_service: StartService
) -> None:
    following = start_service(root, "--follow-symlinks")
    links = get_links(f"{following.url}/mixed/")
    assert {"link-outside", "link-chained", "link-to-directory-outside/"} <= set(links)
    assert "pipe" not in links
    assert ask(following, "/mixed/link-chained").body == b"secret"
    assert set(get_links(links["link-to-directory-outside/"])) == {"../", "secret.txt"}


def test_listing_shows_directories_first_and_sorted(service: Service) -> None:
    page = requests.get(f"{service.url}/brain/", timeout=30).text
    assert links_of(page).hrefs == ["../", "1_1_1/", "annotations/", "info"]


def test_listing_of_an_empty_directory_has_the_way_up(service: Service) -> None:
    assert get_links(f"{service.url}/empty/") == {"../": f"{service.url}/"}


def test_listing_follows_changes_at_once(service: Service, root: Path) -> None:
    directory = root / "changing"
    directory.mkdir()
    for name in ("one", "two"):
        (directory / name).write_text("")
        response = requests.get(f"{service.url}/changing/", timeout=30)
        assert name in links_of(response.text).hrefs
        assert response.headers["Cache-Control"] == "no-cache"


def test_listing_says_its_directory_in_title_and_heading(service: Service) -> None:
    page = requests.get(f"{service.url}/lab/mouse%20%3C4%3E/", timeout=30).text
    assert "<title>/lab/mouse &lt;4&gt;/</title>" in page
    assert "<h1>/lab/mouse &lt;4&gt;/</h1>" in page


@pytest.mark.parametrize("path", ["/none/", "/brain/info/", "/brain/info/x/", "/mixed/pipe/"])
def test_listing_of_no_directory_is_404(service: Service, path: str) -> None:
    assert ask(service, path).status == 404


# --- The index page ---


@pytest.mark.parametrize("path", ["/", "/index.html"])
def test_index_shows_datasets_nested_ones_and_other_entries(service: Service, path: str) -> None:
    links = get_links(service.url + path)
    assert links["brain/"] == f"{service.url}/brain/"
    assert links["lab/mouse-3/"] == f"{service.url}/lab/mouse-3/"
    assert links["lab/mouse <4>/"] == f"{service.url}/lab/mouse%20%3C4%3E/"
    assert {"lab/", "files/", "empty/", "API documentation"} <= set(links)
    assert requests.get(f"{links['lab/mouse-3/']}info", timeout=30).status_code == 200


def test_index_shows_datasets_before_other_entries(service: Service) -> None:
    page = requests.get(f"{service.url}/", timeout=30).text
    assert links_of(page).hrefs[:3] == ["brain/", "lab/mouse%20%3C4%3E/", "lab/mouse-3/"]


def test_index_of_an_empty_root_says_what_a_dataset_is() -> None:
    page = "".join(index_page([], []))
    assert "no dataset" in page
    assert "<code>info</code>" in page


def test_index_of_a_root_that_is_a_dataset_lists_it() -> None:
    page = "".join(index_page([""], [DirectoryEntry("info", False), DirectoryEntry("1_1_1", True)]))
    assert set(links_of(page).hrefs) == {"1_1_1/", "info", "api/"}


# --- Redirects ---


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "query",
    ["", "token=a%2Fb", "a=1&b=%C3%BC&c", "x=//evil.example/?y"],
    ids=["no-query", "token", "several", "url"],
)
@pytest.mark.parametrize(
    "path",
    [
        "/brain",
        "/brain/1_1_1",
        "/brain/annotations/x0y0z0",
        "/lab/mouse%20%3C4%3E",
    ],
    ids=["dataset", "scale", "block", "nasty"],
)
def test_directory_without_slash_redirects_relatively_and_keeps_the_query(
    service: Service, path: str, query: str, method: str
) -> None:
    target = path + (f"?{query}" if query else "")
    answer = ask(service, target, method=method)
    location = answer.headers["Location"]
    assert answer.status in (301, 302, 307, 308)
    assert not urlsplit(location).scheme
    assert not urlsplit(location).netloc
    assert not location.startswith("/")
    expected = f"{service.url}{path}/" + (f"?{query}" if query else "")
    assert urljoin(service.url + target, location) == expected
    assert ask(service, urlsplit(expected).path, method=method).status == 200


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_redirect_of_a_nasty_name_leads_to_its_page(service: Service, name: str) -> None:
    target = f"/directories/{quote(name)}"
    answer = ask(service, f"{target}?q=1")
    expected = f"{service.url}{target}/?q=1"
    assert urljoin(service.url + target, answer.headers["Location"]) == expected


@pytest.mark.parametrize("slashes", ["//", "///"])
def test_redirect_never_leads_to_another_host(service: Service, slashes: str) -> None:
    answer = ask(service, f"{slashes}brain")
    assert answer.status in (301, 302, 307, 308)
    location = answer.headers["Location"]
    assert urlsplit(urljoin("http://here/", location)).netloc == "here"


@pytest.mark.parametrize(
    ("asked", "got"),
    [("/brain", "/brain/"), ("//lab//mouse-3", "/lab/mouse-3/")],
    ids=["plain", "doubled-slashes"],
)
def test_redirect_is_followed_by_ordinary_clients(service: Service, asked: str, got: str) -> None:
    response = requests.get(f"{service.url}{asked}?token=x", timeout=30)
    assert response.url.replace("//lab", "/lab") == f"{service.url}{got}?token=x"
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/brain/info", "/files/100%25"])
def test_file_is_not_redirected(service: Service, path: str) -> None:
    assert ask(service, path).status == 200


# --- Large directories ---


@pytest.fixture(scope="module")
def large(root: Path) -> Path:
    directory = root / "large"
    directory.mkdir()
    for number in range(MANY):
        os.close(os.open(directory / f"{number:06d}.tiff", os.O_CREAT | os.O_WRONLY))
    return directory


@pytest.mark.long
def test_large_directory_is_listed_whole_as_a_stream(service: Service, large: Path) -> None:
    response = requests.get(f"{service.url}/large/", timeout=60)
    assert response.headers["Transfer-Encoding"] == "chunked"
    links = links_of(response.text)
    assert set(links.hrefs) == {"../", *(f"{number:06d}.tiff" for number in range(MANY))}
    assert len(links.hrefs) == MANY + 1


@pytest.mark.long
def test_large_directory_can_be_left_in_the_middle(service: Service, large: Path) -> None:
    before = len(service.log())
    for _ in range(3):
        with requests.get(f"{service.url}/large/", timeout=60, stream=True) as response:
            assert next(response.iter_content(1000)).startswith(b"<!DOCTYPE html>")
    assert ask(service, "/brain/info").status == 200
    lines = service.log()[before:].splitlines()
    assert [line for line in lines if " neurotrale.access: " not in line] == []


@pytest.mark.long
def test_page_of_a_large_directory_is_never_held_in_memory() -> None:
    # In a process of its own: what threads of other tests allocate would count, too.
    script = "from tests.test_listings import measured_pages; print(*measured_pages())"
    done = run([sys.executable, "-c", script], cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    most, length, peak = map(int, done.stdout.split())
    assert peak < most + 2**20
    assert peak < length / 2


def measured_pages() -> tuple[int, int, int]:
    """Read a page at the limit and a far larger one; give memory, and length and memory."""

    def entries(count: int) -> Iterator[DirectoryEntry]:
        return (DirectoryEntry(f"{number:06d}.tiff", False) for number in range(count))

    _, most = consume(directory_page("/", "../", entries(SORTED_ENTRIES)))
    length, peak = consume(directory_page("/", "../", entries(15 * SORTED_ENTRIES)))
    return most, length, peak


def consume(pieces: Iterable[str]) -> tuple[int, int]:
    """Read a page to its end; give its length and the largest memory that was in use."""
    gc.collect()
    tracemalloc.start()
    try:
        return sum(map(len, pieces)), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.long
def test_page_at_the_limit_is_sorted_and_one_beyond_is_whole() -> None:
    names = [f"{number:06d}" for number in reversed(range(SORTED_ENTRIES + 1))]
    at_limit = links_of(
        "".join(directory_page("/", "./", (DirectoryEntry(name, False) for name in names[1:])))
    )
    assert at_limit.hrefs == ["../", *sorted(names[1:])]
    beyond = links_of(
        "".join(directory_page("/", "./", (DirectoryEntry(name, False) for name in names)))
    )
    assert sorted(map(unquote, beyond.hrefs[1:])) == sorted(names)
