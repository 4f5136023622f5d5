"""report.html in a real browser: it renders, nothing is wider than the window, and the console stays empty."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from seqsetvae.report import write_comparison

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
pytestmark = pytest.mark.skipif(not BROWSER, reason="no chromium or chrome on the PATH")

# A window cannot be as narrow as a phone, a frame can. The script measures the page from outside, whose own policy
# allows no script.
MEASURE = """
<!DOCTYPE html><meta charset="utf-8"><pre id="measured"></pre>
<iframe id="page" style="width: WIDTHpx; height: 900px; border: 0" srcdoc="PAGE"></iframe>
<script>
addEventListener("load", () => {
  const page = document.getElementById("page").contentDocument, width = page.documentElement.clientWidth;
  const scrolls = element => element.closest(".table, .for-readers, details:not([open]) > *");
  const wide = [...page.body.querySelectorAll("*")].filter(element =>
    !element.closest("svg") && !scrolls(element) && element.getBoundingClientRect().right > width + 0.5);
  const boxes = [...page.querySelectorAll("figure svg")].map(element => element.getBoundingClientRect());
  const cut = [...page.querySelectorAll("figure svg text")].filter(text => {
    const inside = text.getBoundingClientRect(), box = text.closest("svg").getBoundingClientRect();
    return inside.left < box.left - 2 || inside.right > box.right + 2;
  });
  document.getElementById("measured").textContent = JSON.stringify({
    width, scrolled: page.documentElement.scrollWidth, wide: wide.map(element => element.outerHTML.slice(0, 80)),
    figures: boxes.filter(box => box.width > 200 && box.height > 60).length,
    ink: page.defaultView.getComputedStyle(page.querySelector("figure svg")).color,
    cut: cut.map(text => text.textContent),
  });
});
</script>
"""


def _browse(file: Path, *flags: str) -> tuple[str, str]:
    """(the page after it has loaded, the log of the browser)."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *flags]
    profile = f"--user-data-dir={file.parent / 'profile'}"
    done = subprocess.run([*command, profile, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def _measured(page: Path, width: int, folder: Path, *flags: str) -> dict[str, object]:
    outside = MEASURE.replace("WIDTH", str(width)).replace("PAGE", html.escape(page.read_text(encoding="utf-8")))
    (folder / "outside.html").write_text(outside, encoding="utf-8")
    dom, _ = _browse(folder / "outside.html", "--window-size=1600,1000", *flags)
    found = re.search(r'<pre id="measured">(.*?)</pre>', dom, re.DOTALL)
    assert found
    return json.loads(html.unescape(found[1]))


def test_the_page_renders_without_an_error_in_the_console(reported, tmp_path):
    page = tmp_path / "report.html"
    shutil.copy(reported / "report.html", page)
    dom, log = _browse(page)
    assert "CONSOLE" not in log
    assert dom.count("<figure") == 16
    assert dom.rstrip().endswith("</html>")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(reported, tmp_path, width):
    measured = _measured(reported / "report.html", width, tmp_path)
    assert measured["width"] in range(width - 20, width + 1)  # a scroll bar may take some
    assert measured["scrolled"] == measured["width"]
    assert measured["wide"] == []
    assert measured["cut"] == []
    assert measured["figures"] == 16


def test_text_in_figures_is_light_in_dark_mode(reported, tmp_path):
    def brightness(*flags: str) -> int:
        ink = str(_measured(reported / "report.html", 800, tmp_path, *flags)["ink"])
        return sum(map(int, re.findall(r"\d+", ink)[:3]))

    assert brightness() < 200
    assert brightness("--blink-settings=preferredColorScheme=0") > 600


@pytest.mark.parametrize("width", [390, 1280])
def test_a_comparison_fits_on_a_phone_and_a_desk(reported, example, tmp_path, width):
    page = write_comparison([reported, example], tmp_path / "out")
    assert "CONSOLE" not in _browse(page)[1]
    measured = _measured(page, width, tmp_path)
    assert measured["scrolled"] == measured["width"]
    assert measured["wide"] == []
    assert measured["cut"] == []


def test_on_paper_nothing_is_cut_off_and_everything_is_open(reported, tmp_path):
    """The rules for print at the width of an A4 page inside its margins, where tables cannot scroll."""
    page = tmp_path / "print.html"
    html = (reported / "report.html").read_text(encoding="utf-8").replace("@media print", "@media all")
    page.write_text(html.replace("overflow-x: auto", "overflow: visible"), encoding="utf-8")
    measured = _measured(page, 688, tmp_path)
    assert measured["scrolled"] == measured["width"]
    assert measured["wide"] == []
    assert measured["cut"] == []


def test_the_page_prints_to_pdf(reported, tmp_path):
    page, pdf = tmp_path / "report.html", tmp_path / "report.pdf"
    shutil.copy(reported / "report.html", page)
    flags = [f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={pdf}", page.as_uri()]
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) > 2
