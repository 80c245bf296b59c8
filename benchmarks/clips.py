"""Preparing and caching 100, 1,000 and 10,000 clips: clips a second, memory, and what a kill costs.

python benchmarks/clips.py            # all, about ten minutes; writes results/benchmarks/clips-cpu.json
python benchmarks/clips.py --small    # a tenth of the clips, to try it; writes nothing

The clips are small (12 frames of 64 × 48) and their contents distinct, as the cache knows a clip by its content: fifty real videos,
of which each copy gets a box of MP4 that players skip. Each run is a process of its own with an empty cache and one thread a process.
Rates are from the first clip to the last, so that starting workers, given apart, does not blur them. Memory is read from /proc (Linux).
"""
import os

os.environ.setdefault('BENCH_THREADS', '1')  # a process: the contest is between one process and two
from common import versions, write  # first: it sets the number of threads

# isort: split
import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import lrprop.cache
from lrprop.backbone import load_backbone
from lrprop.cache import cache_videos
from lrprop.core import Video
from lrprop.video import VideoFile
from lrprop.writing import write_video

SEED, FRAMES, HEIGHT, WIDTH, TEMPLATES = 0, 12, 48, 64, 50
BACKBONE, SIZE = 'efficientnet_lite0', 32
SIZES, CLUSTER_SIZE, RESUME_SIZE = (100, 1000, 10_000), 1000, 1000
WORKERS = {'1 process': dict(n_jobs=1), '2 processes': dict(n_jobs=2), 'cluster of 2': dict(cluster=True)}
STEPS = ('prepare', 'cache') if find_spec('lrprop.prepare') else ('cache',)


def moving_square(k: int):
    "A square that crosses the picture; `k` decides where and how fast."
    rng = np.random.default_rng((SEED, k))
    colour, y, speed = rng.integers(0, 256, 3), rng.integers(0, HEIGHT - 16), rng.uniform(.5, 2)
    for t in range(FRAMES):
        frame = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        x = int((WIDTH - 16)*(t/(FRAMES - 1))**speed)
        frame[y:y + 16, x:x + 16] = colour
        yield frame


def make_clips(folder: Path, n: int) -> None:
    "Files 00000.mp4 …, all different, that decode to fifty different videos."
    templates = [write_video(folder/'template.mp4', moving_square(k)).read_bytes() for k in range(TEMPLATES)][::-1]
    frames = VideoFile(folder/'template.mp4')[np.arange(FRAMES)]  # of the last one written, now the first
    (folder/'template.mp4').unlink()
    for i in range(n): (folder/f'{i:05d}.mp4').write_bytes(templates[i % TEMPLATES] + (16).to_bytes(4, 'big') + b'free' + i.to_bytes(8, 'big'))
    assert (VideoFile(folder/f'{(n - 1)//TEMPLATES*TEMPLATES:05d}.mp4')[np.arange(FRAMES)] == frames).all()
    assert len({p.read_bytes() for p in folder.iterdir()}) == n


def open_clip(path: Path) -> Video: return Video(path.stem, VideoFile(path))


def resident() -> dict[int, float]: # Process → MiB
    "Memory of this process and of all that descend from it."
    parent, mib = {}, {}
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with suppress(OSError):  # it has ended
            fields, pid = stat.read_text().rpartition(')')[2].split(), int(stat.parent.name)
            parent[pid], mib[pid] = int(fields[1]), int(fields[21])*os.sysconf('SC_PAGE_SIZE')/2**20
    mine, n = {os.getpid()}, 0
    while n < len(mine): n, mine = len(mine), mine | {pid for pid, p in parent.items() if p in mine}
    return {pid: mib[pid] for pid in mine}


class Sampler(threading.Thread):
    "Resident memory of this process and of its largest child, in MiB, and how many clips are done, ten times a second."
    def __init__(self, done):
        super().__init__(daemon=True)
        self.done, self.start_s, self.samples, self.worker, self.over = done, time.perf_counter(), [], None, threading.Event()

    def sample(self) -> None:
        children = resident()
        own = children.pop(os.getpid())
        if children: self.worker = max(self.worker or 0, *children.values())
        self.samples.append([*self.done(), round(time.perf_counter() - self.start_s, 3), round(own, 1)])

    def run(self) -> None:
        while not self.over.wait(.1): self.sample()

    def __exit__(self, *_) -> None:
        self.over.set()
        self.join()
        self.sample()

    def __enter__(self): self.start(); return self


def one(step: str, clips: str, store: str, workers: str) -> dict:
    "A run: what is reported of it."
    clips, store, how, load = Path(clips), Path(store), dict(WORKERS[workers]), os.getloadavg()[0]  # of the machine in the last minute, the run before this one included
    paths, backbone = sorted(clips.glob('*.mp4')), load_backbone(BACKBONE, size=SIZE)
    local = nullcontext()
    if how.pop('cluster', False):
        from distributed import LocalCluster
        local = LocalCluster(n_workers=2, threads_per_worker=1, host='127.0.0.1', dashboard_address=None, silence_logs=50)
        how['cluster'] = local.scheduler_address
    used = lrprop.cache._used
    done = {'cache': lambda: (used['hits'], used['misses']), 'prepare': lambda: (0, sum(1 for _ in store.rglob('*.mp4')))}[step]
    with local:
        start = time.perf_counter()
        with Sampler(done) as sampler:
            if step == 'cache':
                videos, _ = cache_videos((partial(open_clip, p) for p in paths), backbone, cache_dir=store, **how)
                n = len(videos)
                assert all(len(v) == FRAMES for v in videos)
            else:
                from lrprop.prepare import prepare
                n = prepare('folder', clips, store, progress=False, **how).n_videos
        seconds = time.perf_counter() - start
    assert n == len(paths)
    samples = [s for s in sampler.samples if s[1]] or sampler.samples[-1:]
    (first, first_s), (last, last_s) = ((s[1], s[2]) for s in (samples[0], next(s for s in samples if s[1] == samples[-1][1])))
    thin = np.unique(np.linspace(0, len(samples) - 1, 20).round().astype(int))
    return dict(step=step, n=n, workers=workers, load_before=load, seconds=seconds, start_s=first_s, clips_per_s=(last - first)/(last_s - first_s) if last > first else n/seconds,
                parent_mib=max(s[3] for s in sampler.samples), worker_mib=sampler.worker if workers != '1 process' else None,
                hits=sampler.samples[-1][0], misses=sampler.samples[-1][1], timeline=[samples[i][1:] for i in thin])


def start(*args) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, __file__, '--one', *map(str, args)], stdout=subprocess.PIPE, text=True, start_new_session=True)


def run(*args) -> dict:
    "`one` in a process of its own."
    process = start(*args)
    out, _ = process.communicate()
    if process.returncode: raise RuntimeError(f'{args} failed')
    return json.loads(out.splitlines()[-1])


def resume(clips: Path, store: Path, n: int) -> dict:
    "Kill two processes and their parent when two fifths are done, and run again."
    begun, process = time.perf_counter(), start('cache', clips, store, '2 processes')
    while (stored := sum(1 for _ in store.rglob('*.npy'))) < .4*n:
        assert process.poll() is None
        time.sleep(.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(.5)
    stored, killed_s = sum(1 for _ in store.rglob('*.npy')), time.perf_counter() - begun
    again = run('cache', clips, store, '2 processes')
    return dict(n=n, workers='2 processes', killed_after_s=killed_s, done_when_killed=stored, seconds_to_first=again['start_s'], seconds=again['seconds'], found_second=again['hits'],
                computed_second=again['misses'], computed_twice=again['misses'] - (n - stored))


def main(small: bool) -> None:
    "Measure, print a table, write the record."
    began, rows = time.perf_counter(), []
    sizes, cluster_size, resume_size = ([n//10 for n in s] if isinstance(s, tuple) else s//10 for s in (SIZES, CLUSTER_SIZE, RESUME_SIZE)) if small else (SIZES, CLUSTER_SIZE, RESUME_SIZE)
    print(f'{"":34s}{"clips/s":>9s}{"seconds":>9s}{"first":>8s}{"parent":>9s}{"worker":>9s}')
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for n in sizes:
            (folder/f'{n}').mkdir()
            make_clips(folder/f'{n}', n)
            for step in STEPS:
                for workers in WORKERS:
                    if workers == 'cluster of 2' and n != cluster_size: continue
                    with tempfile.TemporaryDirectory(dir=folder) as store: rows.append(r := run(step, folder/f'{n}', store, workers))
                    print(f'{step:8s}{n:7d} clips, {workers:14s}{r["clips_per_s"]:9.1f}{r["seconds"]:8.1f}s{r["start_s"]:7.1f}s{r["parent_mib"]:6.0f}MiB{r["worker_mib"] or 0:6.0f}MiB', flush=True)
        with tempfile.TemporaryDirectory(dir=folder) as store: resumed = resume(folder/f'{resume_size}', Path(store), resume_size)
    print('\n'.join(f'{k:20s}{v:9.1f}' if isinstance(v, float) else f'{k:20s}{v!s:>9s}' for k, v in resumed.items()))
    if small: return
    config = dict(seed=SEED, frames=FRAMES, height=HEIGHT, width=WIDTH, templates=TEMPLATES, backbone=BACKBONE, size=SIZE, dim=1280, sizes=sizes, cluster_size=cluster_size, resume_size=resume_size)
    write('clips-cpu', dict(config=config, versions=versions('lrprop', 'numpy', 'torch', 'av', 'joblib', 'distributed'), rows=rows, resume=resumed), began)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--small', action='store_true', help='a tenth of the clips; writes nothing')
    p.add_argument('--one', nargs='*', help=argparse.SUPPRESS)  # what a process measures
    a = p.parse_args()
    if a.one: print(json.dumps(one(*a.one)))
    else: main(a.small)
