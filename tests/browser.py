"""Pages in a real browser: headless Chromium where there is one."""

import html
import json
import re
import shutil
import subprocess

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def look(path, folder, width, dark=False):
    """Open a page in Chromium; return what a script in it measured. Fails on any message of its console."""
    probe = folder / "probe.html"
    shapes = "svg polyline, svg rect, svg polygon, svg path.diagonal"
    measure = f"""<script>
    const extent = svg => Math.max(0, ...[...svg.querySelectorAll("{shapes}")].map(
        shape => shape.getBoundingClientRect()).map(box => box.width + box.height));
    document.title = JSON.stringify({{
        overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        charts: [...document.querySelectorAll("svg.chart")].map(extent),
        background: getComputedStyle(document.body).backgroundColor}});
    </script>"""
    probe.write_text(path.read_text(encoding="utf-8").replace("</body>", f"{measure}</body>"), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", f"--window-size={width},2000"]
    command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    result = subprocess.run(
        [*command, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert ":CONSOLE" not in result.stderr
    title = re.search(r"<title>(.*?)</title>", result.stdout).group(1)
    return json.loads(html.unescape(title))
