"""What the page lets a browser do: run its own scripts, load and send nothing."""

import base64
import hashlib
import html.parser

import pytest

from topojax.report.block import Markup, Note

pytest.importorskip("plotly")


class Reader(html.parser.HTMLParser):
    """Scripts, handlers, tags and the policy of a page."""

    def __init__(self, page):
        super().__init__()
        self.scripts, self.handlers, self.tags, self.policy, self._within = [], [], [], {}, False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.handlers += [value for name, value in attrs if name.startswith("on")]
        self._within = tag == "script"
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            assert "script" not in self.tags[:-1]  # it holds for what follows
            parts = (part.split() for part in dict(attrs)["content"].split(";"))
            self.policy = {name: set(values) for name, *values in parts}

    def handle_endtag(self, tag):
        self._within = False

    def handle_data(self, data):
        if self._within:
            self.scripts.append(data)


def test_only_the_page_s_own_scripts_run_and_nothing_is_loaded():
    from topojax.report import page

    hostile = '</p><script>alert(1)</script><img src=x onerror="alert(2)">'
    markup = Markup("own", '<script>var a = 1;</script><input oninput="f(&quot;x&quot;)">', "caption", {})
    section = page.Section("anchor", hostile, hostile, [Note(hostile), markup])
    found = Reader(page.render(hostile, hostile, [section]))
    allowed = {f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in found.scripts}
    handlers = {f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in found.handlers}
    assert len(found.scripts) == 2
    assert found.handlers == ['f("x")']
    assert found.policy["script-src"] == {"'unsafe-eval'", "'unsafe-hashes'"} | allowed | handlers
    assert found.policy["default-src"] == {"'none'"}
    assert found.tags.count("img") == 0
