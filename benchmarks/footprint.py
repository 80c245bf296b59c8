"""What a run costs beside its time, each in a process of its own: peak memory, and the seconds until the first answer."""
import time

BORN = time.perf_counter()
from common import first_line  # first of all that is large: it sets the number of threads

# isort: split
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path

LIMIT_GIB = 6.  # a child that grows past this is ended
NEXT_MIB = 2048 # a sweep ends when its next point would need more


def child(*args: str, env: dict[str, str] | None = None, limit_gib: float = LIMIT_GIB) -> tuple[list[dict], str | None]: # Its lines, and why it ended early
    "Run this file in a new process and watch how much memory it holds."
    with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
        p = subprocess.Popen([sys.executable, __file__, *args], stdout=out, stderr=err, env=os.environ | (env or {}), cwd=Path(__file__).parent)
        reason, statm = None, Path(f'/proc/{p.pid}/statm')
        while p.poll() is None:
            time.sleep(.05)
            try: held = int(statm.read_text().split()[1])*os.sysconf('SC_PAGE_SIZE')/2**30
            except (OSError, IndexError): continue
            if held > limit_gib:
                p.kill()
                reason = f'ended: it held more than {limit_gib:.0f} GiB'
        out.seek(0), err.seek(0)
        lines = [json.loads(line) for line in out if line.startswith('{')]
        if p.returncode and not reason: reason = first_line((err.read().strip().splitlines() or ['no message'])[-1])
    return lines, reason


# ---- memory
def status_mib(key: str) -> float: # MiB
    "VmRSS or VmHWM of this process."
    line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])/1024


def extra(run) -> float: # MiB
    "How far the resident memory rises above where it was while `run` runs (Linux)."
    ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5') # the high-water mark falls to the present level
    before = status_mib('VmRSS')
    run()
    return status_mib('VmHWM') - before


def measure_memory(name: str, points: list, d: int, gamma: float) -> None:
    "Child: print a line for each (B, T) of one contestant, from embeddings with both gradients."
    from peers import CONTESTANTS, series, step
    peer = next(p for p in CONTESTANTS if p.name == name)
    door, start = partial(peer.embs, gamma=gamma), time.perf_counter()
    warm = lambda B: step(door, *(v.requires_grad_() for v in series(B, 32, d)))()
    warm(2)
    first, last = time.perf_counter() - start, None
    for B, T in points:
        if last and last[0]*B*T*T/last[1] > NEXT_MIB: continue
        warm(B)
        leaves = [v.requires_grad_() for v in series(B, T, d)]
        start = time.perf_counter()
        mib = extra(step(door, *leaves))
        last = mib, B*T*T
        print(json.dumps(dict(name=name, B=B, T=T, d=d, extra_mib=round(mib, 1), seconds=time.perf_counter() - start, first_s=round(first, 2))), flush=True)


def memory(c) -> list[dict]: # Rows with extra_mib, or error
    "Extra memory from embeddings against T (one pair) and against B (T=240), and one long pair of ours."
    from peers import CONTESTANTS
    if not Path('/proc/self/clear_refs').exists(): return [dict(name='all', error='peak memory is measured on Linux only')]
    points = sorted({*((1, T) for T in c.memory_T), *((B, 240) for B in c.memory_B)}, key=lambda p: p[0]*p[1]**2)
    jobs = [(p.name, points) for p in CONTESTANTS if p.embs and (not c.memory_peers or p.name in c.memory_peers)]
    if c.memory_long: jobs.append(('lrprop', [(1, c.memory_long)]))
    rows = []
    for name, points in jobs:
        lines, reason = child('memory', name, json.dumps(points), str(c.d), str(c.gamma))
        rows += lines
        if reason: rows.append(dict(name=name, B=points[len(lines)][0], T=points[len(lines)][1], d=c.d, error=reason))
        print('memory', name, *(f"{r['B']}x{r['T']}: {r['extra_mib']}" for r in lines), reason or '', sep=' · ', flush=True)
    return rows


# ---- compile time
def measure_first() -> None:
    "Child: print the seconds of the imports and of the first calls of ours."
    marks, names = [BORN], []
    def mark(name): marks.append(time.perf_counter()), names.append(name)
    import torch
    mark('import torch and numba')
    from lrprop.dtw import cost_matrix, dtw_path
    from lrprop.softdtw import soft_dtw
    from peers import ours_embs
    mark('import lrprop')
    x, y = torch.rand(2, 4, 64, 16).unbind(0)
    soft_dtw(cost_matrix(x, y).requires_grad_(), .1).sum().backward()
    mark('soft_dtw and gradient')
    ours_embs(x.requires_grad_(), y, .1).sum().backward()
    mark('soft_dtw_from_embs and gradient')
    dtw_path(cost_matrix(x.detach(), y))
    mark('dtw_path')
    soft_dtw(torch.rand(32, 240, 240).requires_grad_(), .1).sum().backward()
    mark('soft_dtw of (32, 240, 240)')
    soft_dtw(torch.rand(2, 64, 64, dtype=torch.float64).requires_grad_(), .1).sum().backward()
    mark('soft_dtw in float64')
    print(json.dumps(dict(zip(names, (round(b - a, 3) for a, b in pairwise(marks))))), flush=True)


def compile_times(
    warm: int = 3, # Repeats with a full cache
) -> dict: # 'cold' and 'warm': step -> s; or error
    "Seconds until the first answers, with an empty cache of numba and with the one that run left behind."
    with tempfile.TemporaryDirectory() as folder:
        runs = [child('first', env=dict(NUMBA_CACHE_DIR=folder)) for _ in range(1 + warm)]
    if bad := [reason for _, reason in runs if reason]: return dict(error=bad[0])
    cold, *again = (lines[0] for lines, _ in runs)
    return dict(cold=cold, warm={k: round(statistics.median(r[k] for r in again), 3) for k in cold})


if __name__ == '__main__':
    if sys.argv[1] == 'first': measure_first()
    else: measure_memory(sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
