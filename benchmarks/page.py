"""The page that shows an archive, in Chromium: first paint, frames a second while it scrolls, and what its decoder takes.

    python benchmarks/page.py [--records 100000] [--rounds 3] [--seconds 4] [--dir DIR] [--out STEM]

Needs chromium, nginx and node on the path, and the extra `browser`. The archive is one that benchmarks/access.py writes,
exported by `tsae export-web` and served by nginx on loopback; browser and server share the cores of this machine.

Frames are those of the browser's own trace while it performs a scroll gesture, as a mouse wheel makes it, at so many pixels a
second. Counted are the events `DrawFrame` of the page's compositor, which are the frames that DevTools shows, and the states of
its `PipelineReporter`: presented (with the page's own update, or with the scrolled content alone) or dropped. Busy times are
the sums of all tasks of a thread, by the trace as well, divided by the frames that 60 a second would be.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import access
from playwright.sync_api import Browser, Page, sync_playwright
from rd.run_facts import run_facts
from serving import NGINX, ended, wait_for

from tsae.paths import Folder
from tsae.web import export_web
from tsae.zoo import read_model_file

SPEEDS = {"reading": 300, "wheel": 2_400, "fast wheel": 8_000, "flinging": 24_000}
"""Pixels a second: 5, 40, 133 and 400 a frame."""

GOALS = {"frames_per_s": 50, "paint_s": 1}

MODELS = ("tsae", "seed-8x8x8")

TYPES = "text/html html; text/javascript js; text/css css; image/svg+xml svg; application/json json;"

HERTZ = 60

VIEW = {"width": 1280, "height": 800}

CATEGORIES = ["cc", "benchmark", "toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline.frame"]

THREADS = {
    "CrRendererMain": "page",
    "Compositor": "compositor",
    "ThreadPoolForegroundWorker": "raster and pool",
    "DedicatedWorker thread": "decoders",
    "VizCompositorThread": "display",
}
"""Threads by the browser's names; the rest counts as other."""

SCRIPT = """
window.inView = () => {
    const grid = document.querySelector('.grid'), box = grid?.getBoundingClientRect();
    return grid ? Array.from(grid.querySelectorAll('[role=gridcell]')).filter((cell) => {
        const { top, bottom } = cell.getBoundingClientRect();
        return bottom > box.top && top < box.bottom;
    }) : [];
};
window.there = () => window.inView().filter((cell) => !cell.matches('.waiting')).length;
window.isReady = () => window.inView().length > 0 && window.there() === window.inView().length;
window.allThere = new Promise((done) => {
    const look = () => window.isReady() ? done(performance.now()) : setTimeout(look, 10);
    look();
});
window.sample = () => {
    const most = window.inView().length, shares = [];
    const timer = setInterval(() => shares.push(Math.min(1, window.there() / most)), 100);
    window.samples = () => (clearInterval(timer), shares);
};
"""
"""Cells in view, at least in part; how many of them have their image; and a look at that, ten times a second."""

NODE = ["node", str(Path(__file__).parents[1] / "tests" / "js" / "decode.mjs")]

DECODED = 300


def measure_paint(browser: Browser, url: str) -> dict[str, float]:
    """Seconds to the first paint with content, and to all images in view, of a browser window that has cached nothing."""
    context = browser.new_context(viewport=VIEW)
    page = context.new_page()
    page.add_init_script(SCRIPT)
    page.goto(url)
    ready_ms = page.evaluate("window.allThere")
    paint_ms = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    images = page.evaluate("window.inView().length")
    context.close()
    return {"paint_s": paint_ms / 1000, "images_s": ready_ms / 1000, "images": images}


def settle(page: Page) -> None:
    """Waits where the last gesture ended until all images are there: each goes on to images that were never decoded."""
    page.wait_for_timeout(700)
    page.wait_for_function("window.isReady()")


def scroll(page: Page, speed: int, seconds: float) -> None:
    """Performs a gesture."""
    gesture = {"x": 600, "y": 500, "yDistance": -int(speed * seconds), "speed": speed, "gestureSourceType": "mouse"}
    page.context.new_cdp_session(page).send("Input.synthesizeScrollGesture", gesture)


def traced(browser: Browser, page: Page, speed: int, seconds: float) -> list[dict[str, Any]]:
    """The trace of a gesture."""
    settle(page)
    browser.start_tracing(page=page, categories=CATEGORIES)
    scroll(page, speed, seconds)
    trace: list[dict[str, Any]] = json.loads(browser.stop_tracing())["traceEvents"]
    return trace


def measure_shown(page: Page, speed: int, seconds: float) -> float:
    """Which part of the cells in view has its image while it scrolls, in a gesture of its own."""
    settle(page)
    page.evaluate("window.sample()")
    scroll(page, speed, seconds)
    return round(statistics.mean(page.evaluate("window.samples()")), 2)


def read_trace(trace: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Frames and busy threads, from the first frame that the gesture moved to the end of its time."""
    names = {(event["pid"], event["tid"]): event["args"]["name"] for event in trace if event["name"] == "thread_name"}
    reports = [event for event in trace if event["name"] == "PipelineReporter" and "frame_reporter" in event["args"]]
    moved = [event for event in reports if event["args"]["frame_reporter"]["scroll_state"] != "SCROLL_NONE"]
    pid, start = moved[0]["pid"], moved[0]["ts"]
    end = start + seconds * 1e6
    within = [event for event in trace if start <= event.get("ts", 0) < end]
    drawn = sorted(event["ts"] for event in within if event["name"] == "DrawFrame" and event["pid"] == pid)
    gaps_ms = sorted((b - a) / 1000 for a, b in itertools.pairwise(drawn))
    states = collections.Counter(
        event["args"]["frame_reporter"]["state"].removeprefix("STATE_").lower() for event in moved if start <= event["ts"] < end
    )
    busy = collections.Counter[str]()
    for event in within:
        if event["name"] in ("ThreadControllerImpl::RunTask", "ThreadPool_RunTask") and "dur" in event:
            thread = names.get((event["pid"], event["tid"]), "").split("/")[0]
            is_page = event["pid"] == pid or thread == "VizCompositorThread"
            busy[THREADS.get(thread, "other") if is_page else "other"] += event["dur"] / 1000
    frames = HERTZ * seconds
    return {
        "frames_per_s": round(len(drawn) / seconds, 1),
        "p95_ms": round(gaps_ms[int(0.95 * len(gaps_ms))], 1),
        "longest_ms": round(gaps_ms[-1], 1),
        "states": dict(states),
        "busy_ms_a_frame": {name: round(total / frames, 2) for name, total in busy.most_common()},
    }


def measure_scrolling(browser: Browser, url: str, rounds: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Each speed, in the median of some rounds by frames."""
    page = browser.new_page(viewport=VIEW)
    page.add_init_script(SCRIPT)
    page.goto(url)
    page.evaluate("window.allThere")
    page.wait_for_timeout(1500)
    for name, speed in SPEEDS.items():
        found = [read_trace(traced(browser, page, speed, seconds), seconds) for _ in range(rounds)]
        found.sort(key=lambda result: result["frames_per_s"])
        rates = [result["frames_per_s"] for result in found]
        shown = measure_shown(page, speed, seconds)
        yield {
            "scrolling": name,
            "px_per_s": speed,
            "lowest": rates[0],
            "highest": rates[-1],
            "shown": shown,
            **found[rounds // 2],
        }
    page.close()


def time_decoder(model: str, folder: Path) -> float:
    """Milliseconds that the page's decoder takes for an image, in Node.js."""
    file = folder / f"{model}.safetensors"
    file.write_bytes(read_model_file(model))
    records = access.draw_records(file.read_bytes()).take(range(DECODED))
    streams = json.dumps([(int(coding), stream.hex()) for coding, stream in zip(records.codings, records.streams, strict=True)])
    done = subprocess.run([*NODE, str(file), "--time", "5"], input=streams, capture_output=True, text=True, check=True)
    return float(done.stdout) / 1000


def report(result: dict[str, Any]) -> str:
    """The result as a page."""
    facts, decoder_ms = result["facts"], [f"`{model}` {ms} ms" for model, ms in result["decoder_ms"].items()]
    heads = ["scrolling", "px/s", "frames/s (range)", "p95, ms", "longest, ms", "with the page's own update", "dropped"]
    heads += ["images in view there", *(f"{name}, ms" for name in THREADS.values())]
    return f"""# The page in a browser

{facts["machine"]}, {facts["date"]}, commit {facts["commit"]}, Chromium {result["chromium"]},
headless (no GPU: drawn by the CPU), {VIEW["width"]}x{VIEW["height"]}. `{facts["command"]}`:
{result["records"]:,} records of `tsae`, nginx on loopback, median by frames of {result["rounds"]} x {result["seconds"]:g} s.
Goals: {GOALS["frames_per_s"]} frames/s, first useful paint within {GOALS["paint_s"]} s.

First contentful paint after {spread(result["paints"], "paint_s")} s; the {result["paints"][0]["images"]} images in view decoded
after {spread(result["paints"], "images_s")} s.

| {" | ".join(heads)} |
{"|---" * len(heads)}|
{chr(10).join(row_of(row) for row in result["scrolling"])}

Frames are the trace's `DrawFrame` events of the page's compositor; "with the page's own update" and "dropped" are states of its
`PipelineReporter` (other frames show what was there, scrolled). The last columns are what threads were busy in each sixtieth
of a second, tracing included. "Images in view there" is by a look ten times a second in one more gesture: the rest is grey
cells, whose images are still to be decoded.

The decoder in JavaScript, in Node.js, an image: {", ".join(decoder_ms)}.
"""


def spread(found: list[dict[str, float]], name: str) -> str:
    """The least and the greatest value."""
    values = [each[name] for each in found]
    return f"{min(values):.2f} to {max(values):.2f}"


def row_of(row: dict[str, Any]) -> str:
    """A line of the table."""
    frames = f"{row['frames_per_s']} ({row['lowest']} to {row['highest']})"
    states = [share(row["states"], name) for name in ("presented_all", "dropped")]
    busy = [row["busy_ms_a_frame"].get(name, 0) for name in THREADS.values()]
    cells = [
        row["scrolling"],
        f"{row['px_per_s']:,}",
        frames,
        row["p95_ms"],
        row["longest_ms"],
        *states,
        f"{row['shown']:.0%}",
        *busy,
    ]
    return f"| {' | '.join(map(str, cells))} |"


def share(states: dict[str, int], name: str) -> str:
    """A part of all frames."""
    return f"{states.get(name, 0) / max(1, sum(states.values())):.0%}"


def main() -> None:
    """Parses, exports, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--port", type=int, default=8391)
    parser.add_argument("--dir", help="where to write archive and export; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="stem of a .json and a .md file to write")
    args = parser.parse_args()
    chromium = os.environ.get("TSAE_TEST_CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory(dir=args.dir) as name, sync_playwright() as playwright:
        folder = Path(name)
        access.write_archive(Folder(str(folder / "archive")), access.one_run(args.records))
        export_web(str(folder / "archive"), str(folder / "web"))
        folder.chmod(0o755)
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=args.port).replace("image/png png;", TYPES))
        with ended(subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf")])):
            wait_for(args.port)
            url = f"http://127.0.0.1:{args.port}/web/"
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            paints = [measure_paint(browser, url) for _ in range(args.rounds)]
            rows = []
            for row in measure_scrolling(browser, url, args.rounds, args.seconds):
                print(json.dumps(row), flush=True)
                rows.append(row)
            chromium_version = browser.version
            browser.close()
        decoder_ms = {model: round(time_decoder(model, folder), 2) for model in MODELS}
    result = {
        "facts": run_facts(["playwright"]),
        "chromium": chromium_version,
        "records": args.records,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "paints": paints,
        "scrolling": rows,
        "decoder_ms": decoder_ms,
    }
    if args.out:
        args.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(report(result))
    print(report(result))


if __name__ == "__main__":
    main()
