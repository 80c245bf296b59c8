"""Media files with wrong bytes: each mutant is decoded in a process of its own, which may refuse it, but not crash, hang (30 s) or take memory (1 GiB).

    python tools/fuzz/media.py                       # 500 mutants of each container, and of a JPEG
    python tools/fuzz/media.py -n 20 .mp4 .jpg       # fewer, of some
    python tools/fuzz/media.py --keep DIR            # findings are kept there

One line of JSON at the end; the exit status is 1 if anything was found."""
import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from lrprop.core import rng_at
from lrprop.jpegs import decode_jpeg
from lrprop.packets import SUFFIXES
from lrprop.video import VideoFile
from lrprop.writing import write_video

SECONDS, BYTES = 30, 2**30
KINDS = (*SUFFIXES, '.jpg')


def frames(n=24, height=48, width=64):
    "A square that moves over noise."
    x = rng_at('media').integers(0, 256, (n, height, width, 3)).astype('u1')//4
    for i in range(n): x[i, 8:24, 2*i:2*i + 16] = (250, 200, 40)
    return x


def tiny_file(suffix: str, folder: Path) -> bytes:
    "A sound file of a kind."
    path = folder/f'sound{suffix}'
    if suffix == '.jpg':
        from lrprop.formats import to_jpeg
        return to_jpeg(frames(1)[0])
    if suffix not in ('.avi', '.webm'): return write_video(path, frames()).read_bytes()
    with av.open(str(path), 'w') as file:
        stream = file.add_stream(*(('mpeg4', Fraction(25)) if suffix == '.avi' else ('libvpx', Fraction(25))))
        stream.height, stream.width, stream.pix_fmt = 48, 64, 'yuv420p'
        for x in frames(): file.mux(stream.encode(av.VideoFrame.from_ndarray(x, 'rgb24')))
        file.mux(stream.encode(None))
    return path.read_bytes()


def mutant(data: bytes, rng: np.random.Generator) -> bytes:
    "The same with bytes changed (mostly), a piece repeated, taken out or cut off."
    x, how = bytearray(data), rng.random()
    a = int(rng.integers(len(x)))
    if how < .1: return bytes(x[:a])
    b = a + int(rng.integers(1, 64))
    if how < .2: return bytes(x[:b] + x[a:])
    if how < .3: return bytes(x[:a] + x[b:])
    within = len(x) if rng.random() < .5 else min(len(x), 1024)  # headers are where sizes stand
    for at in rng.integers(0, within, int(2**rng.integers(0, 6))): x[at] = rng.choice((0, 255, 127, 128, int(rng.integers(256))))
    return bytes(x)


def decode(path: Path) -> None:
    "All frames, small, and one as large as it is."
    if path.suffix == '.jpg':
        decode_jpeg(path.read_bytes(), str(path))
        return
    for size in (32, None):
        file = VideoFile(path, size)
        for i in range(0, len(file), 16) if size else (0,): file[i:i + (16 if size else 1)]


def outcome(path: Path) -> str:
    "'decoded', 'refused', or what is wrong."
    if not (child := os.fork()):
        signal.alarm(SECONDS)  # ends the process
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = 0
        with open(os.devnull, 'w') as null: os.dup2(null.fileno(), 2)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try: decode(path)
            except (ValueError, FileNotFoundError): code = 1
            except BaseException:
                path.with_suffix('.txt').write_text(traceback.format_exc())
                code = 2
        os._exit(code)
    _, status, used = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGALRM: return 'hangs'
    if code < 0: return f'crashes with signal {-code}'
    if used.ru_maxrss*1024 > BYTES: return f'takes {used.ru_maxrss*1024/2**30:.1f} GiB'
    return ('decoded', 'refused', 'raises neither ValueError nor FileNotFoundError')[code]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kinds', nargs='*', default=KINDS, help=', '.join(KINDS))
    parser.add_argument('-n', type=int, default=500, help='mutants of each')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--keep', type=Path, help='folder that gets the findings')
    options = parser.parse_args()
    counts, found = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds:
            path, data, counts[kind] = Path(folder)/f'mutant{kind}', tiny_file(kind, Path(folder)), Counter()
            path.write_bytes(data)
            if (sound := outcome(path)) != 'decoded': raise SystemExit(f'the sound {kind} is {sound}')
            for i in range(options.n):
                path.write_bytes(mutant(data, rng_at('mutant', options.seed, kind, i)))
                counts[kind][what := outcome(path)] += 1
                if what in ('decoded', 'refused'): continue
                told = path.with_suffix('.txt')
                found.append(dict(kind=kind, seed=options.seed, number=i, what=what, told=told.read_text()[-600:] if told.exists() else ''))
                told.unlink(missing_ok=True)
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep/f'{options.seed}-{i}{kind}').write_bytes(path.read_bytes())
            print(f'{kind}: {dict(counts[kind])}', file=sys.stderr, flush=True)
    print(json.dumps(dict(counts=counts, found=found)))
    return bool(found)


if __name__ == '__main__': sys.exit(main())
