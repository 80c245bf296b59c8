"""Hours of video: a query in an hour, an hour against an hour, embeddings of an hour; time and memory, each case in a process of its own.

python benchmarks/long.py            # about ten minutes; --small for a look
"""
from common import first_line, versions, write  # first of all that is large: it sets the number of threads

# isort: split
import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from footprint import extra, status_mib

D = 128                                # Width of an embedding
PLACES = (.2, .5, .8)                  # Where in the video the query is hidden, and
PACES = (.8, 1., 1.3)                  # at which of its pace
QUERY = 250                            # Frames, ten seconds
FEATURES = 2048                        # Width of a backbone's features
HOUR = 90_000                          # Frames at 25 a second


# ---- what is aligned
def smooth(rng: np.random.Generator, n: int, d: int, scale: int) -> np.ndarray: # (n, d) float32
    "Random, changing over about `scale` frames."
    knots, at = rng.normal(size=(n//scale + 3, d)).astype('float32'), np.linspace(0, n/scale, n)
    part = (at % 1)[:, None].astype('float32')
    part = part*part*(3 - 2*part)
    return knots[at.astype(int)]*(1 - part) + knots[at.astype(int) + 1]*part


def at_clock(scene: np.ndarray, clock: np.ndarray, rng: np.random.Generator) -> torch.Tensor: # (len(clock), d)
    "The scene at some times, with noise, of length 1."
    k = np.minimum(clock.astype(int), len(scene) - 2)
    part = (clock - k)[:, None].astype('float32')
    return torch.nn.functional.normalize(torch.from_numpy(scene[k]*(1 - part) + scene[k + 1]*part + .2*rng.normal(size=(len(k), scene.shape[1])).astype('float32')), dim=1)


def pair(n: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]: # x, y (n, D), their clocks (n,)
    "One scene at two random paces, each standing still for a tenth of the time."
    rng = np.random.default_rng(n)
    def clock():
        pace, moves = smooth(rng, n, 1, 1500)[:, 0], smooth(rng, n, 1, 250)[:, 0]
        c = np.cumsum(np.exp(.3*pace, dtype=np.float64)*(moves > np.quantile(moves, .1)))
        return c/c[-1]*(n - 1)
    scene, clocks = smooth(rng, n, D, 60), [clock(), clock()]
    return *(at_clock(scene, c, rng) for c in clocks), *clocks


def haystack(n: int) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, int]]]: # query, video, where it is
    "A query, and a video that holds it at three paces."
    rng = np.random.default_rng(n)
    scene, video, spans = smooth(rng, QUERY, D, 25), smooth(rng, n, D, 25), []
    y = at_clock(video, np.arange(n, dtype=float), rng)
    for place, pace in zip(PLACES, PACES):
        a, m = int(place*n), int(QUERY/pace)
        y[a:a + m] = at_clock(scene, np.linspace(0, QUERY - 1, m), rng)
        spans.append((a, a + m))
    return at_clock(scene, np.arange(QUERY, dtype=float), rng), y, spans


# ---- contestants of the search: query, video -> (first, last + 1) of the best, or of the three best
def search_ours(x, y):
    from lrprop.long import search_long
    return [(int(m.path[0, 1]), int(m.path[-1, 1]) + 1) for m in search_long(x, y, len(PLACES))]


def search_tslearn(x, y):
    from tslearn.metrics import dtw_subsequence_path
    path = dtw_subsequence_path(x.numpy(), y.numpy())[0]
    return [(int(path[0][1]), int(path[-1][1]) + 1)]


def search_librosa(x, y):
    from librosa.sequence import dtw
    path = dtw(x.numpy().T, y.numpy().T, metric='euclidean', subseq=True)[1]
    return [(int(path[-1][1]), int(path[0][1]) + 1)]


def search_dtaidistance(x, y):
    from dtaidistance.subsequence.dtw import subsequence_alignment
    match = subsequence_alignment(x.double().numpy(), y.double().numpy(), use_c=True).best_match()
    return [(int(match.segment[0]), int(match.segment[1]) + 1)]


# ---- contestants of the alignment: x, y -> path (n, 2), value or None, at_edge or None
def align_ours(x, y):
    from lrprop.long import long_path
    p = long_path(x, y)
    return p.path, p.value, None


def align_coarse(x, y):
    from lrprop.long import coarse_windows, long_path
    p = long_path(x, y, windows=coarse_windows(x, y))
    return p.path, p.value, p.at_edge


def align_band(x, y, band=1500):
    from lrprop.long import band_windows, long_path
    p = long_path(x, y, windows=band_windows(len(x), len(y), band))
    return p.path, p.value, p.at_edge


def align_whole(x, y):
    from lrprop.dtw import cost_matrix, dtw_path
    value, path = dtw_path(cost_matrix(x, y))
    return path, value, None


def align_tslearn(x, y):
    from tslearn.metrics import dtw_path_from_metric
    path, value = dtw_path_from_metric(x.numpy(), y.numpy(), metric='euclidean')
    return np.array(path), float(value), None


def align_librosa(x, y):
    from librosa.sequence import dtw
    sums, path = dtw(x.numpy().T, y.numpy().T, metric='euclidean')
    return path[::-1], float(sums[-1, -1]), None


SEARCH = dict(lrprop=search_ours, tslearn=search_tslearn, librosa=search_librosa, dtaidistance=search_dtaidistance)
ALIGN = {'lrprop, exact': align_ours, 'lrprop, coarse windows': align_coarse, 'lrprop, band of 1,500': align_band,
         'lrprop, whole matrix': align_whole, 'tslearn': align_tslearn, 'librosa': align_librosa}


# ---- one case, in a process of its own
def timed(run, repeats: int) -> dict:
    "Seconds of each run after the first, which compiles on a small case and is not counted; memory of the first that counts."
    times, box = [], {}
    def once():
        start = time.perf_counter()
        box['out'] = run()
        times.append(time.perf_counter() - start)
    mib = extra(once)
    for _ in range(repeats - 1): once()
    return dict(out=box['out'], seconds=float(np.median(times)), samples=times, extra_mib=round(mib, 1), peak_mib=round(status_mib('VmHWM'), 1))


def case_search(name: str, n: int, repeats: int) -> dict:
    x, y, spans = haystack(n)
    SEARCH[name](*haystack(3000)[:2])
    r = timed(lambda: SEARCH[name](x, y), repeats)
    found = sorted(r.pop('out'))
    off = [min(max(abs(a - s), abs(b - e)) for s, e in spans) for a, b in found]
    return r | dict(found=found, spans=spans, worst_off=max(off))


def case_align(name: str, n: int, repeats: int) -> dict:
    x, y, clock_x, clock_y = pair(n)
    ALIGN[name](*pair(1200)[:2])
    r = timed(lambda: ALIGN[name](x, y), repeats)
    path, value, at_edge = r.pop('out')
    return r | dict(value=value, at_edge=at_edge, steps=len(path), clock_error=float(np.abs(clock_x[path[:, 0]] - clock_y[path[:, 1]]).mean()))


def case_embed(name: str, n: int, repeats: int) -> dict:
    from lrprop.encoder import Encoder, embed_frames, embed_stream
    torch.manual_seed(0)
    encoder, base = Encoder(FEATURES).eval(), np.random.default_rng(0).normal(size=(1000, FEATURES)).astype('float32')
    class Source: # features made when asked for
        def __len__(self): return n
        def __getitem__(self, indices): return base[np.asarray(indices) % 1000]
    run = dict(stream=lambda: sum(len(e) for e in embed_stream(encoder, Source(), fetch=100)),
               chunks=lambda: len(embed_frames(encoder, torch.from_numpy(Source()[np.arange(n)]))))[name]
    for _ in embed_stream(encoder, base[:200]): pass
    r = timed(run, repeats)
    assert r.pop('out') == n
    return r


def child(case: str, name: str, n: int, repeats: int) -> dict:
    "A row of one case."
    p = subprocess.run([sys.executable, __file__, '--case', case, name, str(n), str(repeats)], capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    lines = [line for line in p.stdout.splitlines() if line.startswith('{')]
    row = dict(case=case, name=name, n=n)
    if not lines: return row | dict(error=first_line((p.stderr.strip().splitlines() or [f'ended with {p.returncode}'])[-1]))
    return row | json.loads(lines[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--small', action='store_true', help='short videos; writes nothing')
    parser.add_argument('--note', default='', help='what a reader should know about the machine')
    parser.add_argument('--case', nargs=4, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.case:
        warnings.simplefilter('ignore')
        case, name, n, repeats = a.case
        print(json.dumps(dict(search=case_search, align=case_align, embed=case_embed)[case](name, int(n), int(repeats))), flush=True)
        return
    start, (short, middle, hour) = time.perf_counter(), (2000, 3000, 4000) if a.small else (9_000, 30_000, HOUR)
    ours = [n for n in ALIGN if n.startswith('lrprop') and 'whole' not in n]
    jobs = [('search', name, n, 3) for n in (short, hour) for name in SEARCH] + [('search', 'lrprop', 10*hour, 1)]
    jobs += [('align', name, short, 1) for name in ALIGN] + [('align', name, n, 1) for n in (middle, hour) for name in ours]
    jobs += [('embed', 'chunks', short, 1), ('embed', 'stream', short, 1), *([] if a.small else [('embed', 'stream', hour, 1)])]
    rows = []
    for job in jobs:
        rows.append(child(*job))
        r = rows[-1]
        print(*job[:3], r.get('error') or f"{r['seconds']:.2f} s, +{r['extra_mib']:.0f} MiB, peak {r['peak_mib']:.0f} MiB", {k: r[k] for k in ('worst_off', 'clock_error', 'at_edge') if k in r}, flush=True)
    config = dict(query=QUERY, d=D, places=PLACES, paces=PACES, features=FEATURES, band=1500, factor=10, radius=16)
    if not a.small: write('long-cpu', dict(versions=versions('torch', 'numpy', 'numba', 'tslearn', 'librosa', 'dtaidistance'), config=config, note=a.note, rows=rows), start)


if __name__ == '__main__': main()
