"""The documentation site builds without a warning, holds together, and opens without a network."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

pytest.importorskip("mkdocs")
pytestmark = pytest.mark.slow

REFERS = {"a": "href", "link": "href", "img": "src", "script": "src", "iframe": "src", "source": "src"}
LOOKED_AT = [
    "index",
    "tutorial",
    "safety",
    "how-to/data",
    "methods/unconstrained",
    "reference/config",
    "results/shield",
]


class Page(HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[tuple[str, str]] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}
        target = values.get(REFERS.get(tag, ""))
        if target:
            self.references.append((tag, target))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}


def test_it_builds_without_a_warning(built: subprocess.CompletedProcess[str]) -> None:
    assert built.returncode == 0, built.stderr
    assert not re.search(r"^(WARNING|ERROR)", built.stderr, re.M), built.stderr


def test_every_internal_link_and_picture_is_there(site: Path, pages: dict[Path, Page]) -> None:
    missing, internal = [], 0
    for path, page in pages.items():
        for _, reference in page.references:
            if urlsplit(reference).scheme or reference.startswith("//"):
                continue
            internal += 1
            target, anchor = urldefrag(unquote(reference))
            file = (path.parent / target).resolve() if target else path
            if not file.is_file():
                missing.append(f"{path.relative_to(site)}: {reference}")
            elif anchor and file in pages and anchor not in pages[file].anchors and not anchor.startswith("__"):
                missing.append(f"{path.relative_to(site)}: {reference} (no such heading)")
    assert internal > 1000
    assert missing == []


def test_nothing_but_links_leads_to_the_network(site: Path, pages: dict[Path, Page]) -> None:
    loaded = [
        (path.name, reference)
        for path, page in pages.items()
        for tag, reference in page.references
        if tag != "a" and (urlsplit(reference).scheme in ("http", "https") or reference.startswith("//"))
    ]
    assert loaded == []
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_every_public_page_of_the_reference_shows_what_it_is_about(site: Path) -> None:
    expected = {
        "switch": "safe_rl.switch.RecoverySwitch.hands_over",
        "config": "safe_rl.config.RiskCriticConfig.eps_risk",
        "risk": "safe_rl.risk.RiskCritic.target",
        "recovery": "safe_rl.recovery.ModelFreeRecovery.act",
        "runner": "safe_rl.training.train",
        "evaluation": "safe_rl.evaluation.evaluate",
        "data": "safe_rl.data.dataset.OfflineDataset.open",
        "envs": "safe_rl.envs.protocols.OffersPlaneMap.plane_map",
        "shield": "safe_rl.shield.shield.Shield.decide",
    }
    for name, anchor in expected.items():
        assert f'id="{anchor}"' in (site / "reference" / f"{name}.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_browser_shows_a_page_without_a_network(browser, site: Path, name: str, width: int) -> None:
    browser.open((site / f"{name}.html").as_uri(), width=width)
    browser.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    browser.evaluate("new Promise(resolve => setTimeout(resolve, 100))")  # scripts that start after the page
    requested = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
    assert len(requested) > 3
    assert [url for url in requested if not url.startswith((site.as_uri(), "data:"))] == []
    assert browser.seen("Runtime.exceptionThrown") == []
    assert browser.seen("Runtime.consoleAPICalled") == []
    assert browser.seen("Log.entryAdded") == []
    assert browser.seen("Network.loadingFailed") == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
    assert browser.evaluate("document.querySelector('h1').getBoundingClientRect().width") > 100


def test_the_search_finds_a_page_from_the_file_system(browser, site: Path) -> None:
    browser.open((site / "index.html").as_uri())
    found = browser.evaluate("""new Promise((resolve, reject) => {
        const query = document.querySelector("[data-md-component='search-query']");
        query.focus();
        query.value = "exchangeable";
        query.dispatchEvent(new KeyboardEvent("keyup", {bubbles: true}));
        const until = Date.now() + 30000;
        (function look() {
            const links = [...document.querySelectorAll(".md-search-result__link")].map(link => link.href);
            if (links.length || Date.now() > until) resolve(links); else setTimeout(look, 50);
        })();
    })""")
    assert any(link.split("?")[0].endswith("how-to/calibrate.html") for link in found), found
    assert browser.seen("Runtime.exceptionThrown") == []
