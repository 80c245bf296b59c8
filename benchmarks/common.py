"""What every benchmark needs: the same threads for all, the machine, interleaved medians, JSON. Import it before numpy and torch.

BENCH_THREADS=1 python benchmarks/kernels.py   # another number of threads; 2 by default
"""
import os

THREADS = int(os.environ.setdefault('BENCH_THREADS', '2'))
for _name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'NUMEXPR_NUM_THREADS', 'NUMBA_NUM_THREADS'): os.environ[_name] = str(THREADS)
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # a thread that waits sleeps: it would spin into the next one's turn

import gc
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numba
import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT/'.bench'          # what `peers.py` installs; last on the path, so that it never shadows the project's environment
RESULTS = ROOT/'results'/'benchmarks'
SIMD = ('sse4_2', 'avx', 'avx2', 'fma', 'avx512f', 'avx512bw', 'avx512vl', 'neon', 'asimd', 'sve')

torch.set_num_threads(THREADS)
numba.set_num_threads(THREADS)
if PEERS.is_dir() and str(PEERS) not in sys.path: sys.path.append(str(PEERS))


def _cpuinfo() -> dict[str, str]:
    "First processor of /proc/cpuinfo; empty where there is none."
    path = Path('/proc/cpuinfo')
    if not path.exists(): return {}
    lines = (line.split(':', 1) for line in path.read_text().split('\n\n')[0].splitlines() if ':' in line)
    return {k.strip(): v.strip() for k, v in lines}


def machine() -> dict:
    "The machine in words: processor, cores, SIMD flags, memory, threads used, accelerator if there is one."
    info = _cpuinfo()
    flags = set(info.get('flags', info.get('Features', '')).split())
    memory = os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')/2**30 if hasattr(os, 'sysconf') else None
    return dict(cpu=info.get('model name', platform.processor()), family=info.get('cpu family'), model=info.get('model'), cores=os.cpu_count(),
                simd=[f for f in SIMD if f in flags], memory_gib=memory and round(memory, 1), system=f'{platform.system()} {platform.machine()}',
                threads=THREADS, wait_policy=os.environ['OMP_WAIT_POLICY'], gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None)


def versions(
    *names: str, # Distributions, as pip names them
) -> dict[str, str | None]: # None where one is not installed
    "Versions of Python and of distributions."
    def of(name):
        try: return metadata.version(name)
        except metadata.PackageNotFoundError: return None
    return {'python': platform.python_version(), **{n: of(n) for n in names}}


def commit() -> dict:
    "Commit of the tree, and whether the code that is measured, or that measures, differs from it."
    def git(*args): return subprocess.run(['git', '-C', str(ROOT), *args], capture_output=True, text=True, check=False).stdout.strip()
    return dict(commit=git('rev-parse', 'HEAD') or None, dirty=bool(git('status', '--porcelain', '--', 'lrprop', 'benchmarks')))


def first_line(e: BaseException | str) -> str:
    "An error on one line, without the paths of this machine."
    text = e if isinstance(e, str) else f'{type(e).__name__}: {e}'
    return text.strip().splitlines()[0].replace(f'{ROOT}/', '')[:200]


def _turn(run: Callable, n: int, warm: bool) -> float:
    "Median seconds of `n` calls, after one untimed call if `warm`."
    if warm: run()
    times = []
    for _ in range(n):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def quartiles(
    times: list[float], # s
) -> dict: # median, q1, q3 and the samples themselves, all in s
    "Summary of one contestant."
    q1, median, q3 = np.percentile(times, (25, 50, 75)).tolist()
    return dict(median=median, q1=q1, q3=q3, samples=times)


def interleaved(
    contestants: dict[str, Callable], # Name -> call without arguments
    rounds: int = 7,                  # Turns of each, at most
    turn_s: float = .03,              # About the length of a turn, in s; a slower call is a turn by itself
    cap_s: float = 8.,                # A contestant takes as many turns as fit into this, in s, and one at least
) -> dict[str, dict]: # As `quartiles`, a sample a turn; {'error': reason} where a call failed
    "Times side by side: everyone takes a turn in each round, and the order rotates. A turn of several calls starts with one that is not timed; one of a single call, which lasts more than half of `turn_s`, does not."
    out, samples, turns, calls = {}, {}, {}, {}
    for name, run in contestants.items():
        try:
            run()                                   # compiles
            estimate = max(_turn(run, 1, False), 1e-6)
            if estimate < turn_s: estimate = max(_turn(run, 3, False), 1e-6)
        except Exception as e:
            out[name] = dict(error=first_line(e))
            continue
        calls[name] = int(np.clip(turn_s/estimate, 1, 50))
        turns[name] = int(np.clip(cap_s/(estimate*calls[name]), 1, rounds))
        samples[name] = []
    names = list(samples)
    gc.collect()
    gc.disable()
    try:
        for k in range(rounds):
            for name in names[k % len(names):] + names[:k % len(names)]:
                if len(samples[name]) >= turns[name]: continue
                samples[name].append(_turn(contestants[name], calls[name], calls[name] > 1))
    finally: gc.enable()
    return {**out, **{n: quartiles(s) for n, s in samples.items()}}


def write(
    name: str,             # File under results/benchmarks, without .json
    record: dict,          # What was measured
    start: float,          # time.perf_counter() at the beginning
    folder: Path = RESULTS,
) -> Path:
    "Write a record with commit, machine and seconds beside it."
    folder.mkdir(parents=True, exist_ok=True)
    record = dict(commit(), machine=machine(), seconds=round(time.perf_counter() - start, 1), **record)
    path = folder/f'{name}.json'
    path.write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
    print('wrote', path)
    return path
