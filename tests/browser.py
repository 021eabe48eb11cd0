"""Pages in a real browser: headless Chromium where there is one."""

import html
import json
import re
import shutil
import subprocess

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


_MEASURE = """<script>
addEventListener("load", () => {
    const shapes = "svg polyline, svg rect, svg polygon, svg path.diagonal";
    const extent = svg => Math.max(0, ...[...svg.querySelectorAll(shapes)].map(
        shape => shape.getBoundingClientRect()).map(box => box.width + box.height));
    const texts = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const element = walk.currentNode.parentElement;
        if (!walk.currentNode.data.trim() || !element.getClientRects().length) continue;
        const drawn = element.closest("svg") && element.getScreenCTM();
        const size = parseFloat(getComputedStyle(element).fontSize) * (drawn ? Math.hypot(drawn.a, drawn.b) : 1);
        texts.push([size, walk.currentNode.data.trim().slice(0, 40)]);
    }
    parent.document.title = JSON.stringify({
        width: innerWidth,
        overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        charts: [...document.querySelectorAll("svg.chart")].map(extent),
        small: texts.filter(([size]) => size < 11).slice(0, 5),
        background: getComputedStyle(document.body).backgroundColor});
});
</script>"""


def look(path, folder, width, dark=False):
    """Open a page in Chromium; return what a script in it measured. Fails on any message of its console.

    The page is in a frame of the width: a window of Chromium's is never below 500 pixels. `small` are texts that are
    drawn with less than 11 pixels, those of drawings after their scaling.
    """
    content = path.read_text(encoding="utf-8").replace("</body>", f"{_MEASURE}</body>")
    style = f"border: 0; width: {width}px; height: 2000px"
    probe = folder / "probe.html"
    probe.write_text(
        f'<!doctype html><iframe style="{style}" srcdoc="{html.escape(content)}"></iframe>', encoding="utf-8"
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", f"--window-size={width + 60},2100"]
    command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    result = subprocess.run(
        [*command, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert ":CONSOLE" not in result.stderr
    title = re.search(r"<title>(.*?)</title>", result.stdout).group(1)
    seen = json.loads(html.unescape(title))
    assert seen["width"] == width
    return seen
