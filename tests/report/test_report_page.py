"""The report in a browser: it opens offline without a complaint, shows every figure, and answers the cursor."""

import pytest
from browser import EXECUTABLE, Browser

pytest.importorskip("websocket", reason="websocket-client is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium is installed")]

PLACE = """(() => {
  const plot = document.getElementById('plot-atlas');
  plot.scrollIntoView({block: 'center'});
  const box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout;
  const points = plot.calcdata.filter((c) => c[0].trace.visible === true && c[0].trace.customdata).flat();
  const p = points.reduce((a, b) => (b.x > a.x ? b : a));
  return [box.left + xaxis._offset + xaxis.d2p(p.x), box.top + yaxis._offset + yaxis.d2p(p.y)];
})()"""
TILES = """[...document.querySelectorAll('#thumbnails i')].map((tile) => {
  const style = getComputedStyle(tile), box = tile.getBoundingClientRect();
  return [style.backgroundImage.slice(0, 21), style.backgroundPosition, box.width, box.left, box.top];
})"""


@pytest.fixture(scope="module")
def browser():
    one = Browser()
    yield one
    one.close()


@pytest.fixture(scope="module")
def opened(browser, digits_report):
    browser.open(digits_report / "report" / "index.html")
    return browser


def test_nothing_is_complained_of_and_nothing_fetched(opened):
    assert opened.errors == []
    assert {url.split(":")[0] for url in opened.requests} == {"file", "data"}


def test_every_figure_is_drawn(opened):
    figures = "[...document.querySelectorAll('figure')]"
    plots = opened.evaluate(f"{figures}.filter((f) => f.querySelector('.js-plotly-plot .main-svg')).map((f) => f.id)")
    images = opened.evaluate(f"{figures}.filter((f) => f.querySelector('img')?.naturalWidth > 100).map((f) => f.id)")
    folded = opened.evaluate(f"{figures}.filter((f) => f.querySelector('details > summary')).map((f) => f.id)")
    assert len(plots) >= 14
    assert folded == ["figure-tree"]
    assert sorted(plots + images + folded) == sorted(opened.evaluate(f"{figures}.map((f) => f.id)"))
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_image_under_the_cursor_is_shown_on_the_atlas(opened):
    opened.evaluate("window.scrollTo(0, 0)")
    x, y = opened.evaluate(PLACE)
    assert opened.evaluate("document.getElementById('thumbnails').hidden")
    opened.move(x + 60, y + 60)
    opened.move(x, y)
    opened.until("!document.getElementById('thumbnails').hidden")
    tiles = opened.evaluate(TILES)
    assert [tile[0] for tile in tiles] == ['url("data:image/png;b'] * 2
    assert all(tile[2] == 76 and abs(tile[3] - x) < 200 and abs(tile[4] - y) < 200 for tile in tiles)
    shown = opened.evaluate("document.getElementById('plot-atlas')._hoverdata[0].customdata[0]")
    column, row = shown % 50, shown // 50
    assert tiles[0][1] == f"{-76 * column:g}px {-76 * row:g}px"
    opened.move(5, 5)
    opened.until("document.getElementById('thumbnails').hidden")


def test_the_menu_colours_the_atlas_by_something_else(opened):
    visible = "document.getElementById('plot-atlas').data.filter((t) => t.visible !== false).map((t) => t.name)"
    assert any(name.startswith("label") for name in opened.evaluate(visible))
    opened.evaluate("document.getElementById('plot-atlas').scrollIntoView({block: 'center'})")
    box = opened.evaluate(
        "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
        "([...document.querySelectorAll('#plot-atlas .updatemenu-button')]"
        ".find((b) => b.textContent.trim() === 'chart').getBoundingClientRect())"
    )
    opened.click(*box)
    opened.until(
        f"{visible}.some((name) => name.startsWith('chart ')) && !{visible}.some((n) => n.startsWith('label'))"
    )
    assert opened.errors == []


def test_points_in_space_are_drawn_in_three_dimensions(browser, points_report):
    browser.open(points_report / "report" / "index.html")
    browser.until("!!document.querySelector('#plot-atlas .gl-container canvas')")
    assert browser.evaluate("document.getElementById('plot-atlas').data[0].type") == "scatter3d"
    assert browser.errors == []


def test_a_phone_sees_a_page_of_its_own_width(browser, digits_report):
    """At 390 pixels the page does not scroll sideways; figures of several panels do so within themselves."""
    browser.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    try:
        browser.open(digits_report / "report" / "index.html")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390
        top = browser.evaluate("document.getElementById('figure-atlas').getBoundingClientRect().top + window.scrollY")
        assert top < 1500  # the headline and the atlas come first
        wide = "[...document.querySelectorAll('.picture img')].map((i) => i.getBoundingClientRect().width)"
        assert min(browser.evaluate(wide)) >= 350
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")
