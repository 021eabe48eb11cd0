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
    const right = document.documentElement.clientWidth, range = document.createRange(), wide = [];
    const texts = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const element = walk.currentNode.parentElement;
        if (!walk.currentNode.data.trim() || !element.getClientRects().length) continue;
        const drawn = element.closest("svg") && element.getScreenCTM();
        const size = parseFloat(getComputedStyle(element).fontSize) * (drawn ? Math.hypot(drawn.a, drawn.b) : 1);
        texts.push([size, walk.currentNode.data.trim().slice(0, 40)]);
        range.selectNodeContents(walk.currentNode);
        if (range.getBoundingClientRect().right > right + 0.5 && !element.closest(".scroll"))
            wide.push(walk.currentNode.data.trim());
    }
    for (const element of document.querySelectorAll("main *"))
        if (element.getBoundingClientRect().right > right + 0.5 && !element.closest(".scroll"))
            wide.push(element.outerHTML);
    parent.seen[frameElement.id] = {
        width: innerWidth,
        overflow: document.documentElement.scrollWidth - right,
        wide: wide.slice(0, 5).map(what => what.slice(0, 120)),
        charts: [...document.querySelectorAll("svg.chart")].map(extent),
        small: texts.filter(([size]) => size < 10.999).slice(0, 5),
        background: getComputedStyle(document.body).backgroundColor};
    parent.document.title = JSON.stringify(parent.seen);
});
</script>"""


def look(pages, folder, dark=False):
    """Open (path, width) pages in one Chromium; return what a script in each measured. Fails on any console message.

    Every page is in a frame of its width: a window of Chromium's is never below 500 pixels. `wide` are texts and
    elements that reach over the right edge and are in nothing that scrolls. `small` are texts that are drawn with less
    than 11 pixels, those of drawings after their scaling.
    """
    frames = []
    for number, (path, width) in enumerate(pages):
        content = html.escape(path.read_text(encoding="utf-8").replace("</body>", f"{_MEASURE}</body>"))
        style = f"border: 0; width: {width}px; height: 2000px"
        frames.append(f'<iframe id="{number}" style="{style}" srcdoc="{content}"></iframe>')
    probe = folder / "probe.html"
    probe.write_text("<!doctype html><script>var seen = {}</script>" + "".join(frames), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", "--window-size=1400,2100"]
    command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    result = subprocess.run(
        [*command, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    messages = [line for line in result.stderr.splitlines() if ":CONSOLE" in line]
    assert not messages, messages
    title = re.search(r"<title>(.*?)</title>", result.stdout).group(1)
    seen = json.loads(html.unescape(title))
    found = [seen[str(number)] for number in range(len(pages))]
    assert [item["width"] for item in found] == [width for _, width in pages]
    return found
