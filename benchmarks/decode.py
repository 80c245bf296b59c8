"""Frames of a video as (T,224,224,3) uint8 RGB: lrprop beside what else installs from PyPI.

python benchmarks/decode.py           # about ten minutes; writes results/benchmarks/decode-cpu.json
python benchmarks/decode.py --small   # three rounds, to try it; writes nothing

Two H.264 clips of 500 frames with the encoder's default distance of key frames, each frame with its number painted into it. All contestants live in
processes of their own, confined to as many cores as threads, and take turns. A call counts from the file's name, or from an object that was opened
before, to the array; the processor time that it and its children used is noted beside the seconds. What each returns,
for each pattern and either start, is checked first: the numbers, and the pictures against FFmpeg's RGB of the stored size, averaged over areas in
float64. Where nothing is resized, at 224×224, that is what the two PyAV contestants return by construction.
"""
from common import PEERS, first_line, quartiles, versions, write  # first: it sets the number of threads

# isort: split
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch

N, SIZE, SEED, ROUNDS, CAP_S = 500, 224, 3, 7, .8 # a slow contestant stops after three rounds that took CAP_S seconds together
CLIPS = {'224×224': (224, 224), '480×270': (270, 480)} # height, width
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else range(os.cpu_count())


# ---- clips
def bits(width: int) -> np.ndarray:
    "Which of nine bits a column shows."
    return np.arange(width) * 9 // width


def frames(h: int, w: int):
    "A built-in pouring video, cut to shape, its number on top as nine black or white blocks."
    from lrprop.synthetic import PouringVideo
    video = PouringVideo(SEED, size=max(h, w), lengths=(N, N))
    for i in range(N):
        frame = video[np.array([i])][0][-h:, :w].copy()
        frame[:h // 14] = 255 * (i >> bits(w) & 1)[None, :, None]
        yield frame


def numbers(pictures: np.ndarray) -> np.ndarray:
    "The number in each picture."
    top = pictures[:, 4:12].mean((1, 3))
    return sum((top[:, bits(SIZE) == k].mean(1) > 128).astype(int) << k for k in range(9))


def shrink(n: int) -> np.ndarray:
    "(SIZE,n) weights of the exact mean over the pixels that each new one covers."
    edges = np.linspace(0, n, SIZE + 1)
    return np.clip(np.minimum(edges[1:, None], np.arange(1, n + 1)) - np.maximum(edges[:-1, None], np.arange(n)), 0, 1) * SIZE / n


def psnr(pictures: np.ndarray, path: str, wanted: np.ndarray) -> float:
    "Smallest over ten of the frames, dB, against FFmpeg's own RGB of the stored size, reduced in float64; equal pictures count as 99."
    import av
    rows, worst = np.linspace(0, len(wanted) - 1, 10).astype(int), 0.
    stored = {i: f for i, f in enumerate(av.open(path).decode(video=0)) if i in set(wanted[rows].tolist())}
    for row in rows:
        rgb = stored[wanted[row]].to_ndarray(format='rgb24').astype(float)
        reference = np.tensordot(np.tensordot(shrink(rgb.shape[0]), rgb, 1), shrink(rgb.shape[1]), (1, 1)).transpose(0, 2, 1)
        worst = max(worst, float(((pictures[row] - reference)**2).mean()))
    return 10 * np.log10(255**2 / max(worst, 255**2 / 10**9.9))


# ---- contestants: open(path, threads) -> object; read(object, wanted, threads) -> (n,SIZE,SIZE,3) uint8 RGB
def in_order(wanted: np.ndarray, pictures) -> np.ndarray:
    "Pictures of the sorted numbers, put into the order asked for."
    out, back = np.empty((len(wanted), SIZE, SIZE, 3), np.uint8), np.argsort(wanted)
    for row, picture in zip(back, pictures): out[row] = picture
    return out


def fit(picture: np.ndarray, filter: int) -> np.ndarray:
    "Resized by OpenCV, unless it fits."
    import cv2
    return picture if picture.shape[:2] == (SIZE, SIZE) else cv2.resize(picture, (SIZE, SIZE), interpolation=filter)


def ours_open(path, threads):
    from lrprop.video import VideoFile
    return VideoFile(path, SIZE, threads)


def ours_read(file, wanted, threads): return file[wanted]


def cv_open(path, threads):
    import cv2
    cv2.setNumThreads(threads)
    return cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])


def cv_read(capture, wanted, threads, filter, seek=False):
    import cv2
    def pictures():
        at = int(capture.get(cv2.CAP_PROP_POS_FRAMES))
        for i in np.sort(wanted).tolist():
            if seek or i < at: capture.set(cv2.CAP_PROP_POS_FRAMES, at := i)
            for _ in range(at, i): capture.grab()
            yield cv2.cvtColor(fit(capture.read()[1], filter), cv2.COLOR_BGR2RGB)
            at = i + 1
    return in_order(wanted, pictures())


def decord_open(path, threads):
    import decord
    return decord.VideoReader(path, ctx=decord.cpu(0), width=SIZE, height=SIZE, num_threads=threads)


def decord_read(reader, wanted, threads):
    order = np.argsort(wanted)
    batch = reader.get_batch(wanted[order]).asnumpy()
    return batch if (order[:-1] < order[1:]).all() else batch[np.argsort(order)]


def imageio_read(path, wanted, threads):
    from imageio_ffmpeg import read_frames
    keep = '' if len(wanted) == N else f"select='{'+'.join(f'eq(n,{i})' for i in np.sort(wanted).tolist())}',"
    limit = ['-threads', str(threads)]
    reader = read_frames(path, input_params=limit, output_params=['-vf', f'{keep}scale={SIZE}:{SIZE}:flags=area', '-fps_mode', 'passthrough',
                                                                  '-filter_threads', str(threads), *limit])
    next(reader)
    return in_order(wanted, (np.frombuffer(f, np.uint8).reshape(SIZE, SIZE, 3) for f in reader))


def pyav_open(path, threads):
    import av
    container = av.open(path)
    container.streams.video[0].thread_type = 'AUTO'
    container.streams.video[0].codec_context.thread_count = threads
    return container


def pyav_read(container, wanted, threads, fit):
    if fit is torch_fit: torch.set_num_threads(threads)
    container.seek(0)
    def pictures():
        some, last = set(wanted.tolist()), wanted.max()
        for i, frame in enumerate(container.decode(video=0)):
            if i in some: yield fit(frame.to_ndarray(format='rgb24'))
            if i == last: return
    return in_order(wanted, pictures())


def torch_fit(picture):
    if picture.shape[:2] == (SIZE, SIZE): return picture
    x = torch.from_numpy(picture).permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(x, (SIZE, SIZE), mode='bilinear', antialias=True)[0].permute(1, 2, 0).numpy()


def torchcodec_open(path, threads):
    from torchcodec.decoders import VideoDecoder
    return VideoDecoder(path, num_ffmpeg_threads=threads, dimension_order='NHWC')


AREA, LINEAR = 3, 1 # OpenCV's INTER_AREA and INTER_LINEAR
SWS = 'swscale does colour and size in one pass'
CV = 'OpenCV lets swscale make BGR at the stored size, then resizes, then swaps the channels'
CONTESTANTS = { # name: package, open, read, what it does
    'lrprop': ('av', ours_open, ours_read, 'swscale resizes (filter AREA), then makes RGB'),
    'opencv, area': ('opencv-python-headless', cv_open, partial(cv_read, filter=AREA), f'{CV}; filter INTER_AREA; grabs forward to each frame'),
    'opencv, linear': ('opencv-python-headless', cv_open, partial(cv_read, filter=LINEAR), f'{CV}; filter INTER_LINEAR, the default, which skips pixels; grabs forward'),
    'opencv, seeking': ('opencv-python-headless', cv_open, partial(cv_read, filter=AREA, seek=True), f'{CV}; filter INTER_AREA; sets the position for each frame'),
    'decord2': ('decord2', decord_open, decord_read, f'{SWS}, its own filter; one get_batch of the sorted numbers'),
    'decord': ('decord', decord_open, decord_read, f'{SWS}, its own filter; one get_batch of the sorted numbers'),
    'imageio-ffmpeg': ('imageio-ffmpeg', None, imageio_read, f'FFmpeg in a process of its own, through a pipe: select, {SWS}, filter area'),
    'PyAV + OpenCV': ('av', pyav_open, partial(pyav_read, fit=partial(fit, filter=AREA)), 'the naive loop: decode, to_ndarray(rgb24) at the stored size, then INTER_AREA'),
    'PyAV + torch': ('av', pyav_open, partial(pyav_read, fit=torch_fit), 'the naive loop: decode, to_ndarray(rgb24) at the stored size, then bilinear with antialias'),
    'torchcodec': ('torchcodec', torchcodec_open, None, 'needs the shared libraries of an FFmpeg, which pip does not bring'),
}


def processor_time() -> float:
    "Seconds of this process and of its children that have ended."
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def worker(name: str, threads: int) -> None:
    "Serve one contestant: a line of JSON for each line of JSON."
    if name == 'decord': sys.path.insert(0, str(PEERS/'decord-0.6.0'))
    _, opens, read, _ = CONTESTANTS[name]
    kept, answers = {}, os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1) # what a library prints is no answer
    for task in map(json.loads, sys.stdin):
        path, wanted, start = task['path'], np.array(task['wanted']), task['start']
        try:
            def call():
                if opens is None: return read(path, wanted, threads)
                if start == 'object' and path not in kept: kept[path] = opens(path, threads)
                return read(kept[path] if start == 'object' else opens(path, threads), wanted, threads)
            if opens and start == 'object': call()
            used, begin = processor_time(), time.perf_counter()
            pictures = call()
            answer = dict(seconds=time.perf_counter() - begin, cpu=processor_time() - used)
            if task['check']: answer |= dict(numbers=numbers(pictures).tolist(), psnr=psnr(pictures, path, wanted))
            del pictures
        except Exception as e: answer = dict(error=first_line(e))
        print(json.dumps(answer), file=answers, flush=True)


@contextmanager
def confined(threads: int):
    "What is started here runs on as many cores as threads."
    if not hasattr(os, 'sched_setaffinity'): yield; return
    os.sched_setaffinity(0, CORES[-threads:])
    try: yield
    finally: os.sched_setaffinity(0, CORES)


class Contestant:
    "A worker process."
    def __init__(self, name, threads):
        limits = {k: str(threads) for k in ('BENCH_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'NUMBA_NUM_THREADS')}
        with confined(threads):
            self.process = subprocess.Popen([sys.executable, __file__, '--worker', name, str(threads)], env=os.environ | limits,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def ask(self, **task) -> dict:
        try:
            print(json.dumps(task), file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError): return dict(error=f'its process ended ({self.process.wait()})')

    def end(self):
        with suppress(BrokenPipeError): self.process.stdin.close()
        self.process.wait()


# ---- the contest
def contest(clip: str, path: str, threads: int, patterns: dict[str, np.ndarray], rounds: int) -> list[dict]:
    "Rows of one clip with one number of threads."
    peers, rows = {n: Contestant(n, threads) for n in CONTESTANTS}, []
    for pattern, wanted in patterns.items():
        for start in ('name', 'object')[:1 + ('unsorted' not in pattern)]:
            samples, cpu, found = {}, {}, {}
            for name, peer in peers.items():
                if (name == 'opencv, seeking' and pattern == 'sequential') or (start == 'object' and not CONTESTANTS[name][1]): continue
                found[name] = peer.ask(path=path, wanted=wanted.tolist(), start=start, check=True)
            names = [n for n, f in found.items() if 'error' not in f]
            for k in range(rounds):
                for name in names[k % len(names):] + names[:k % len(names)]:
                    if k > 2 and sum(samples[name]) > CAP_S: continue
                    got = peers[name].ask(path=path, wanted=wanted.tolist(), start=start, check=False)
                    samples.setdefault(name, []).append(got['seconds'])
                    cpu.setdefault(name, []).append(got['cpu'])
            for name, f in found.items():
                row = dict(threads=threads, clip=clip, pattern=pattern, start=start, name=name)
                if 'error' in f: row['error'] = f['error']
                else: row |= dict(seconds=quartiles(samples[name]), cpu=float(np.median(cpu[name])), wrong=int((np.array(f['numbers']) != wanted).sum()), psnr=round(f['psnr'], 2))
                rows.append(row)
            best = min(r['seconds']['median'] for r in rows[-len(found):] if 'seconds' in r and r['name'] != 'lrprop' and not r['wrong'])
            print(f'{threads} threads, {clip}, {pattern}, from {start}: best peer {1e3 * best:.0f} ms')
            for r in rows[-len(found):]: print(f"  {r['name']:16s}" + (f"{1e3 * r['seconds']['median']:7.0f} ms {1e3 * r['cpu']:7.0f} ms of processors {r['wrong']:4d} wrong {r['psnr']:6.1f} dB" if 'seconds' in r else r['error']), flush=True)
    for peer in peers.values(): peer.end()
    return rows


def to_float(counts: tuple[int, ...], threads: int) -> list[dict]:
    "The step after: (T,H,W,3) uint8 to (T,3,H,W) float in [0,1], the same for everyone."
    torch.set_num_threads(threads)
    rows = []
    for n in counts:
        x, times = np.random.default_rng(0).integers(0, 256, (n, SIZE, SIZE, 3), np.uint8), []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().float().div_(255)
            times.append(time.perf_counter() - begin)
        rows.append(dict(threads=threads, frames=n, seconds=quartiles(times)))
    return rows


def main(small: bool) -> None:
    "Make the clips, measure, write the record."
    from lrprop.writing import write_video
    start, rows, tensor, clips = time.perf_counter(), [], [], {}
    some = np.random.default_rng(SEED).choice(N, 60, replace=False)
    patterns = {'sequential': np.arange(N), '60 random, sorted': np.sort(some), '60 random, unsorted': some}
    with tempfile.TemporaryDirectory() as folder:
        for clip, (h, w) in CLIPS.items():
            path = write_video(Path(folder)/f'{h}.mp4', frames(h, w))
            clips[clip] = dict(bytes=path.stat().st_size, frames=N, fps=25, crf=23, codec='H.264')
            for threads in (1, 2): rows += contest(clip, str(path), threads, patterns, 3 if small else ROUNDS)
    for threads in (1, 2): tensor += to_float((N, 60), threads)
    if small: return
    packages = dict.fromkeys(c[0] for c in CONTESTANTS.values())
    write('decode-cpu', dict(config=dict(size=SIZE, frames=N, seed=SEED, rounds=ROUNDS, clips=clips, patterns=list(patterns), random=some.tolist()),
                             versions=versions('lrprop', 'numpy', 'torch', *packages), contestants={n: dict(package=c[0], does=c[3]) for n, c in CONTESTANTS.items()},
                             rows=rows, tensor=tensor), start)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--small', action='store_true', help='three rounds; writes nothing')
    p.add_argument('--worker', nargs=2, help=argparse.SUPPRESS)  # what serves one contestant
    a = p.parse_args()
    if a.worker: worker(a.worker[0], int(a.worker[1]))
    else: main(a.small)
