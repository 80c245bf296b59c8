"""How fluent the player is: pages of two and of six videos of 300 frames, opened in headless Chromium.

python benchmarks/player.py             # about two minutes; writes results/benchmarks/player.json
python benchmarks/player.py --small     # videos of 60 frames, to try it; writes nothing

A seek ends when the pictures of all videos are on their canvases; a random one finds few of its pictures decoded. Chromium draws without a GPU.
"""
from common import ROOT, versions, write  # first: it sets the number of threads

# isort: split
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(ROOT/'tools'))
from browser import CHROMIUM, Browser
from lrprop.align import align
from lrprop.core import Video
from lrprop.player import write_player
from lrprop.synthetic import PouringVideo

SIZE, N_SEEKS, SECONDS = 240, 200, 6
P = 'document.getElementById("player").player'
SEEK = '''(async moments => { const ms = []; for (const m of moments) { const t = performance.now(); await %s.seek(m); ms.push(performance.now() - t); } return ms; })(%s)'''


def pouring(i: int, n: int) -> Video:
    "A built-in video of n frames, rendered once."
    source = PouringVideo(i, SIZE, (n, n))
    return Video(f'pouring {i}', source[np.arange(n)], np.minimum(source.progress.astype(int), 4), progress=source.progress)


def pair(x: Video, y: Video):
    "By their exact clocks: how they are aligned is nothing to the player."
    return align(*(np.stack([np.cos(v.progress/3), np.sin(v.progress/3)], 1) for v in (x, y)))


def measure(browser: Browser, path: Path, n: int) -> dict:
    "One page: seconds to open it, milliseconds of a seek, moments shown of those that played by."
    start = time.perf_counter()
    browser.open(path)
    browser.wait('document.getElementById("player").player !== undefined')
    browser.run(f'{P}.ready.then(() => 1)')
    opened = time.perf_counter() - start
    random = np.random.default_rng(0).integers(n, size=N_SEEKS).tolist()
    jumps, steps = (np.array(browser.run(SEEK % (P, m))) for m in (random, [k % n for k in range(N_SEEKS)]))
    seconds = min(SECONDS, n/25 - .2)
    browser.run(f'window.shown = new Set(); document.getElementById("player").addEventListener("moment", e => shown.add(e.detail)); {P}.seek(0).then(() => {{ shown.clear(); {P}.play(); }})')
    time.sleep(seconds)
    shown = browser.run(f'[shown.size, {P}.moment]')
    browser.run(f'{P}.pause()')
    if browser.errors: raise RuntimeError(browser.errors)
    return {'MB': path.stat().st_size/1e6, 'opened in s': opened, **{f'{name}, ms ({what})': float(f(ms)) for name, ms in (('jump', jumps), ('step', steps))
            for what, f in (('median', np.median), ('95 %', lambda v: np.percentile(v, 95)))}, 'shown while playing': shown[0]/(shown[1] or 1)}


def main() -> None:
    start, n = time.perf_counter(), 60 if '--small' in sys.argv else 300
    folder, rows = Path(tempfile.mkdtemp()), []
    videos = [pouring(i, n) for i in range(6)]
    with Browser() as browser:
        browser.screen()
        for count in (2, 6):
            page = write_player(folder/f'{count}.html', videos[:count], [pair(videos[0], v) for v in videos[1:count]], SIZE, progress=False)
            rows.append({'videos': count, 'frames each': n, **measure(browser, page, n)})
            print({k: round(v, 2) for k, v in rows[-1].items()})
    chromium = subprocess.run([CHROMIUM, '--version'], capture_output=True, text=True, check=True).stdout.strip()
    record = dict(versions={**versions('numpy', 'pillow'), 'chromium': chromium}, size=SIZE, n_seeks=N_SEEKS, shared='both cores were also training, at low priority', rows=rows)
    if n == 300: write('player', record, start)


if __name__ == '__main__': main()
