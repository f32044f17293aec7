"""The report in a real browser: no error, no request, readable in the light and in the dark, wide and narrow."""

import json

import pytest

from tests.browser import BROWSERS, browser, find_browser, opened
from tests.run_folders import answered, write_evaluation, write_run
from train.report.write import report_of

pytestmark = pytest.mark.skipif(find_browser() is None, reason=f"no chromium: none of {', '.join(BROWSERS)} is there")

ATTACK = '<script>document.title = "taken"; fetch("http://203.0.113.7/")</script><img src=x onerror="document.title=1">'
TEXTS = [ATTACK, "\u202eevil שלום ما هو لون الشكل؟", "x" * 10_000, "word " * 2000, "up"]
SMALLEST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3, of letters of this size
# The contrast of each element's own words with the nearest background that is not transparent: text -> ratio.
CONTRASTS = """
() => {
  const parts = color => color.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const color = parts(getComputedStyle(element).backgroundColor);
      if (color.length == 3 || color[3] > 0) return color;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
  };
  const found = {};
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].filter(each => each.nodeType == 3).map(each => each.data.trim()).join("");
    if (!own || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const front = parts(element.namespaceURI.endsWith("svg") ? style.fill : style.color);
    const [low, high] = [light(front), light(behind(element))].sort((a, b) => a - b);
    found[`${element.tagName}.${element.className.baseVal ?? element.className}`] = (high + 0.05) / (low + 0.05);
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def started():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory, media_folder) -> str:
    folder = tmp_path_factory.mktemp("runs") / ATTACK.replace("/", "")[:80]
    clip = str(media_folder / "clip0.mp4")
    (folder.parent / "val.json").write_text(json.dumps([
        {"id": f"q{number}", "video": clip, "conversations": [
            {"from": "human", "value": f"<video>\n{text}"}, {"from": "gpt", "value": "up"}]}
        for number, text in enumerate(TEXTS)
    ]))  # fmt: skip
    data = {"train": [{"path": "t.json"}], "eval": [{"path": str(folder.parent / "val.json")}]}
    write_run(folder, {"data": data})
    for step, said in ((0, "down"), (20, "down"), (40, "up")):
        records = [answered(n, said if n % 2 else text, question=text, media=[clip]) for n, text in enumerate(TEXTS)]
        write_evaluation(folder, step, {"val": records, ATTACK.replace("/", "")[:60]: records})
    (folder / "left_out.json").write_text(json.dumps({"train": TEXTS}))
    return report_of(folder).resolve().as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_opens_without_an_error_or_a_request(started, address, width, scheme):
    with opened(started, address, width, 900, scheme) as shown:
        shown.page.wait_for_load_state("load")
        assert (shown.said, shown.asked) == ([], [])
        assert shown.page.title() == f"{ATTACK.replace('/', '')[:80]}: report of a training run"
        assert shown.page.evaluate("document.documentElement.scrollWidth") == width, "nothing is wider than the window"
        assert shown.page.evaluate("[...document.images].every(each => each.naturalWidth > 0)")
        assert shown.page.locator("#answers img").count() >= 8
        contrasts = shown.page.evaluate(CONTRASTS)
        assert len(contrasts) > 20
        assert {name: ratio for name, ratio in contrasts.items() if ratio < SMALLEST_CONTRAST} == {}
        background = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 21, 26)"}[scheme]


def test_the_report_is_used_by_keys_and_printed_without_its_links(started, address):
    with opened(started, address) as shown:
        shown.page.keyboard.press("Tab")
        focused = shown.page.evaluate(
            "[document.activeElement.getAttribute('href'), getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert focused == ["#trained", "solid"]
        shown.page.emulate_media(media="print", color_scheme="dark")
        assert not shown.page.locator("nav").is_visible()
        assert shown.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert shown.page.evaluate(
            "document.querySelector('pre').scrollHeight <= document.querySelector('pre').offsetHeight"
        )


def test_the_browser_of_these_tests_hears_errors_and_requests(started, tmp_path):
    page = "<script>console.error('one'); new Image().src = 'http://127.0.0.1:9/x.png'; throw Error('two')</script>"
    (tmp_path / "bad.html").write_text(page)
    with opened(started, (tmp_path / "bad.html").as_uri()) as shown:
        shown.page.wait_for_timeout(300)
        assert {"one", "two"} <= set(shown.said)
        assert [each for each in shown.asked if "127.0.0.1:9" in each]
