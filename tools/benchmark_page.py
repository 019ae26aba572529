"""How fast the page of `python -m page` is in a browser: tables of docs/speed.md, as Markdown.

    python tools/benchmark_page.py    takes some minutes, and needs Chromium and its driver

The networks are untrained, which are as fast as trained ones.
"""

import os
import sys
import tempfile
from pathlib import Path

from benchmark import LARGER, ROOT, SMALL, TURNS, VOCAB_SIZE, read_config, spread, table
from pictures import open_chromium, wait_for

import train
from networks import build
from page import page
from quill.checkpoint import save
from quill.dataset import open_dataset

# In a page from its start: note the time at which the network's first character is there.
FIRST_CHARACTER = """
addEventListener("DOMContentLoaded", () => {
  const text = document.getElementById("text");
  new MutationObserver(() => {
    const drawn = text.querySelector(".character:not(.prompt, .caret)");
    if (drawn) window.first_character ??= performance.now() / 1000;
  }).observe(text, { childList: true, subtree: true });
});
"""
# Press a button, and move a slider in every frame of the screen until a status line has a word, or
# for 90 frames; returns the milliseconds between the frames.
MOVING = """
const [button, status, word, done] = arguments, times = [];
const slider = document.getElementById("temperature");
document.getElementById(button).click();
requestAnimationFrame(function frame(time) {
  times.push(time);
  slider.value = 0.8 + 0.2 * Math.sin(time / 200);
  slider.dispatchEvent(new Event("input"));
  const ended = document.getElementById(status).textContent.includes(word);
  if (times.length < 90 || !ended) requestAnimationFrame(frame);
  else done(times.slice(1).map((time, i) => time - times[i]));
});
"""
# The three products of a linear layer, of the size of those in shakespeare_fast.py.
PRODUCTS = """
return [
  ["x weight^T", 2048, 512, 128, false],
  ["d_y weight", 2048, 128, 512, false],
  ["d_y^T x", 512, 128, 2048, true],
].map(([name, M, N, K, transposed]) => {
  const memory = new Memory(M * K + K * N + M * N + 64);
  const [a, b, c] = [M * K, K * N, M * N].map((size) => memory.array(size).fill(0.5));
  const rate = () => {
    const began = performance.now();
    for (let i = 0; i < 20; i++) memory.product(a, b, M, N, K, c, transposed);
    return (2 * M * N * K * 20) / (performance.now() - began) / 1e6;
  };
  return [`${name}: ${M} x ${K} x ${N}`, Math.max(...Array.from({ length: 6 }, rate))];
});
"""


def measure_writing(driver, arguments):
    """A network writes 500 characters, several times: cells of a row."""
    with tempfile.TemporaryDirectory() as folder:
        config = read_config([*arguments, f"--out_dir={folder}"])
        meta, state = open_dataset("shakespeare_char").meta, train.State(best_val_loss=4.17)
        save("ckpt.pt", build(config, VOCAB_SIZE), config, meta, state)
        page.main([f"--out_dir={folder}"])
        path = Path(folder) / "page.html"
        size, loads, speeds = path.stat().st_size / 1e6, [], []
        for _ in range(TURNS):
            driver.get(path.as_uri())
            wait_for(driver, "Wrote 200")  # by itself
            loads.append(driver.execute_script("return first_character"))
            driver.find_element("id", "write").click()
            wait_for(driver, "Wrote 500")
            rate = driver.find_element("id", "status").text.split()[3]
            speeds.append(int(rate.replace(",", "")))
        frames = driver.execute_async_script(MOVING, "write", "status", "Wrote")
    late = f"{sum(time > 25 for time in frames)} of {len(frames)}"
    return f"{size:.1f} MB", spread(loads, 2), spread(speeds), late


def measure_learning(driver):
    """docs/quillgpt.html learns Tiny Shakespeare at its smallest size: cells of a row."""
    driver.get((ROOT / "docs" / "quillgpt.html").as_uri())
    wait_for(driver, "Wrote 200")
    text = (ROOT / "data" / "shakespeare_char" / "input.txt").read_text(encoding="utf-8")
    driver.execute_script("document.getElementById('learn-text').value = arguments[0]", text)
    frames = driver.execute_async_script(MOVING, "learn", "learn-status", "learned")
    seconds, loss = (driver.find_element("id", f"learn-{x}").text for x in ("seconds", "loss"))
    return seconds, loss, f"{sum(time > 50 for time in frames)} of {len(frames)}"


def main():
    driver = open_chromium()
    if driver is None:
        sys.exit("there is no Chromium with chromedriver here")
    os.chdir(ROOT)
    script = {"source": FIRST_CHARACTER}
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    driver.set_script_timeout(1800)
    with driver:
        networks = [("0.8M, block 64", SMALL), ("4.8M, block 256", LARGER)]
        rows = [[name, *measure_writing(driver, arguments)] for name, arguments in networks]
        columns = ["file", "first character, s", "characters/s", "frames later than 25 ms"]
        table(["page of a network with", *columns], rows)
        rows = [measure_learning(driver) for _ in range(3)]
        table(["s from the click", "validation loss", "frames later than 50 ms"], rows)
        rows = [[name, f"{rate:.1f}"] for name, rate in driver.execute_script(PRODUCTS)]
        table(["product of matrices", "GFLOP/s on one core"], rows)


if __name__ == "__main__":
    main()
