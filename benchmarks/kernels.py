"""Kernels against every peer that installs from PyPI: results/benchmarks/kernels-cpu.json, or kernels-cuda.json on a GPU.

make bench                                       # installs the peers into .bench/ first
python benchmarks/kernels.py --quick --out /tmp  # a look at everyone, a minute or two
python benchmarks/kernels.py --device cuda
"""
from common import RESULTS, first_line, interleaved, versions, write  # first: it sets the number of threads

# isort: split
import argparse
import time
from dataclasses import asdict, dataclass
from functools import partial
from math import exp, inf, log
from pathlib import Path

import numpy as np
import torch
from numba import njit
from torch import Tensor

from footprint import compile_times, memory
from lrprop.dtw import cost_matrix
from lrprop.kernels import soft_cpu
from peers import CONTESTANTS, install, ours_embs, series, step, why_absent

NAMES = ('lrprop', 'torch', 'numba', 'numpy', 'llvmlite', 'tslearn', *sorted({p.package for p in CONTESTANTS} - {'lrprop', 'torch', 'tslearn'}))


@dataclass(frozen=True)
class Config:
    "What is measured. `(B, T)` each; d features where embeddings are compared."
    seed: int = 0
    gamma: float = .1
    d: int = 128
    rounds: int = 7
    cap_s: float = 6.      # s a contestant may take in one comparison
    call_cap_s: float = 2. # a sweep ends for a contestant whose next call would be slower
    soft: tuple = ((1, 240), (4, 240), (32, 240), (8, 80), (4, 1000), (1, 2000))
    sweep_T: tuple = (60, 120, 240, 480, 1000, 2000, 4000)
    sweep_B: tuple = (1, 2, 4, 8, 16, 32, 64, 128)
    embs: tuple = ((8, 80), (32, 240), (4, 1000))
    path: tuple = ((32, 240), (1, 240), (1, 1000), (1, 2000))
    accuracy_T: tuple = (240, 1000)
    accuracy_gamma: tuple = (1e-3, 1e-2, 1e-1, 1.)
    memory_T: tuple = (60, 120, 240, 480, 1000, 2000)
    memory_B: tuple = (1, 2, 4, 8, 16, 32)
    memory_long: int = 10_000 # frames of the one long pair, ours alone
    memory_peers: tuple = ()  # all if empty
    dtypes: tuple = ('float32', 'float64')


QUICK = Config(rounds=3, cap_s=.3, call_cap_s=.15, soft=((1, 240), (4, 240)), sweep_T=(60, 240), sweep_B=(1, 4), embs=((8, 80),), path=((1, 240), (4, 240)),
               accuracy_T=(240,), accuracy_gamma=(1e-2, 1.), memory_T=(60, 240), memory_B=(8,), memory_long=0, memory_peers=('lrprop',), dtypes=('float32',))


# ---- the oracle of gradients
@njit(nogil=True)
def _oracle(D, gamma, E):
    "Soft-DTW in log space, row by row: fills E (T,T) and returns the value. Weights of the three ways are kept, so nothing cancels."
    n, m = D.shape
    w, r = np.zeros((n + 1, m + 1, 3)), np.full((n + 1, m + 1), inf)
    r[0, 0] = 0.
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            a, b, c = r[i-1, j-1], r[i-1, j], r[i, j-1]
            least = min(a, b, c)
            a, b, c = exp((least - a)/gamma), exp((least - b)/gamma), exp((least - c)/gamma)
            total = a + b + c
            w[i-1, j-1, 0], w[i-1, j-1, 1], w[i-1, j-1, 2] = a/total, b/total, c/total
            r[i, j] = D[i-1, j-1] + least - gamma*log(total)
    E[-1, -1] = 1.
    for i in range(n - 1, -1, -1):
        for j in range(m - 1, -1, -1):
            if i + 1 < n: E[i, j] += E[i+1, j]*w[i+1, j, 1]
            if j + 1 < m: E[i, j] += E[i, j+1]*w[i, j+1, 2]
            if i + 1 < n and j + 1 < m: E[i, j] += E[i+1, j+1]*w[i+1, j+1, 0]
    return r[n, m]


def oracle(cost: Tensor, gamma: float) -> tuple[Tensor, Tensor]: # Values (B,) and E (B,T,T), float64
    "Reference values and gradients of the costs as they are given, in float64."
    E = torch.zeros(cost.shape, dtype=torch.float64)
    value = [_oracle(c.numpy(), gamma, e.numpy()) for c, e in zip(cost.detach().double(), E)]
    return torch.tensor(value, dtype=torch.float64), E


# ---- one comparison
def compare(runs: dict, verify: dict, c: Config, **where) -> list[dict]: # Rows; a failure has `error` instead of times
    "Check everyone, then time side by side those who passed."
    rows, good = {}, {}
    for name, run in runs.items():
        try:
            found = verify[name]() if name in verify else {}
            if 'error' not in found: good[name] = run
        except Exception as e: found = dict(error=first_line(e))
        rows[name] = found
    for name, times in interleaved(good, c.rounds, cap_s=c.cap_s).items(): rows[name] = rows[name] | times
    found = [dict(where, name=name, **row) for name, row in rows.items()]
    print(*where.values(), *(f"{r['name']} {r['median']*1e3:.3g}" if 'median' in r else f"({r['name']}: {r['error']})" for r in found), sep=' · ', flush=True)
    return found


def agree(run, leaves: list[Tensor], value: Tensor, grads: list[Tensor]) -> dict: # max_error of the gradients; error if too large
    "Is this contestant's answer that of the reference, within what float32 peers reach?"
    total = float(run())
    off = max(float((v.grad.cpu() - g).abs().max())/max(float(g.abs().max()), 1.) for v, g in zip(leaves, grads))
    if abs(total - float(value)) > 1e-3*abs(float(value)) + 1e-3: return dict(error=f'wrong value {total:.6g}; valid: {float(value):.6g}')
    if not off < 2e-2: return dict(error=f'wrong gradient, off by {off:.2g}')
    return dict(max_error=off)


def split(door: str, device: str = 'cpu', among=CONTESTANTS) -> tuple[list, list[dict]]:
    "Who takes part, and rows for those who could by their kind but do not on this device."
    inside = [p for p in among if why_absent(p, door, device) is None]
    outside = [dict(name=p.name, error=why_absent(p, door, device)) for p in among if getattr(p, door) and p not in inside]
    return inside, outside


def compare_soft(B: int, T: int, dtype: torch.dtype, c: Config, among: list, section: str = 'soft') -> list[dict]:
    "Value and gradient from a cost matrix; and our kernel alone, without torch around it."
    cost = cost_matrix(*series(B, T, 16, dtype, c.seed), 'sqeuclidean')
    leaves = {p.name: cost.clone().requires_grad_() for p in among}
    runs = {p.name: step(partial(p.soft, gamma=c.gamma), leaves[p.name]) for p in among}
    value, E = oracle(cost, c.gamma)
    verify = {n: partial(agree, run, [leaves[n]], value.sum(), [E]) for n, run in runs.items()}
    runs['lrprop kernel'] = partial(soft_cpu, cost, c.gamma, torch.tensor([[T, T]]).expand(B, 2), -1, False, False, True)
    return compare(runs, verify, c, section=section, B=B, T=T, dtype=str(dtype)[6:])


def sweep(shapes: list[tuple[int, int]], section: str, c: Config) -> list[dict]:
    "Growing shapes; whoever would be slower than the cap at the next one stops, and a row says so."
    among, rows, last = split('soft')[0], [], None
    for B, T in shapes:
        if last:
            growth = B*T*T/(last[0]*last[1]**2)
            slow = {r['name']: r['median']*growth for r in rows if (r['B'], r['T']) == last and r.get('median', 0)*growth > c.call_cap_s}
            out = {r['name'] for r in rows if 'error' in r}
            rows += [dict(section=section, B=B, T=T, dtype='float32', name=n, error=f'stopped: a call would take about {s:.1f} s') for n, s in slow.items()]
            among = [p for p in among if p.name not in slow and p.name not in out]
        rows += compare_soft(B, T, torch.float32, c, among, section)
        last = B, T
    return rows


def too_large(B: int, T: int, d: int) -> str | None:
    "Why a contestant that builds all differences had better not run; None if memory allows."
    need = 5*4*B*T*T*d/2**30 # the differences, their squares, and the gradients of both
    info = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines()) if Path('/proc/meminfo').exists() else {}
    free = int(info.get('MemAvailable', '16777216 kB').split()[0])/2**20
    return f'not run: it would need about {need:.0f} GiB' if need > .4*free else None


def gemms(x: Tensor, y: Tensor):
    "The three products that no method can do without: distances, and the gradients of both sides."
    E = torch.rand(len(x), x.shape[1], y.shape[1], dtype=x.dtype)
    return lambda: (torch.bmm(x, y.mT), torch.bmm(E, y), torch.bmm(E.mT, x))


def compare_embs(B: int, T: int, c: Config) -> list[dict]:
    "Value and both gradients from embeddings; beside them the three products alone, and ours with Euclidean distances."
    x, y = series(B, T, c.d, seed=c.seed)
    inside, _ = split('embs')
    skip = {p.name: why for p in inside if p.dense and (why := too_large(B, T, c.d))}
    doors = {p.name: partial(p.embs, gamma=c.gamma) for p in inside if p.name not in skip}
    doors['lrprop euclidean'] = partial(ours_embs, gamma=c.gamma, kind='euclidean')
    leaves = {n: (x.clone().requires_grad_(), y.clone().requires_grad_()) for n in doors}
    runs = {n: step(door, *leaves[n]) for n, door in doors.items()}
    x64, y64 = (v.double().requires_grad_() for v in (x, y))
    cost = cost_matrix(x64, y64, 'sqeuclidean')
    value, E = oracle(cost, c.gamma)
    grads = torch.autograd.grad(cost, (x64, y64), E)
    verify = {n: partial(agree, runs[n], leaves[n], value.sum(), grads) for n in runs if n != 'lrprop euclidean'}
    where = dict(section='embs', B=B, T=T, dtype='float32')
    rows = compare({**runs, 'three GEMMs': gemms(x, y)}, verify, c, **where)
    return rows + [dict(where, name=n, error=why) for n, why in skip.items()]


# ---- exact DTW
def path_error(paths, cost: Tensor, best: np.ndarray) -> dict: # max_error of the paths' costs, or error
    "Are these monotone paths from corner to corner, as cheap as the best?"
    off = 0.
    for path, c, least in zip(paths, cost.double().numpy(), best):
        p = np.asarray(path)
        moves = np.diff(p, axis=0)
        if not ((p[0] == 0).all() and (p[-1] == np.array(c.shape) - 1).all() and (moves >= 0).all() and (moves <= 1).all() and moves.any(1).all()):
            return dict(error='not a monotone path from corner to corner')
        off = max(off, abs(c[p[:, 0], p[:, 1]].sum() - least)/max(least, 1.))
    return dict(error=f'path costs {off:.2g} more than the best, relatively') if off > 1e-4 else dict(max_error=float(off))


def compare_path(B: int, T: int, dtype: torch.dtype, c: Config) -> list[dict]:
    "Path of exact DTW from a cost matrix; some start from the series."
    from tslearn.metrics import dtw_path_from_metric
    x, y = series(B, T, c.d, dtype, c.seed)
    cost = cost_matrix(x, y, 'sqeuclidean')
    inside, _ = split('path')
    runs = {p.name: partial(p.path, cost, x, y) for p in inside}
    best = np.array([dtw_path_from_metric(m, metric='precomputed')[1] for m in cost.double().numpy()])
    verify = {n: lambda run=run: path_error(run(), cost, best) for n, run in runs.items()}
    return compare(runs, verify, c, section='path', B=B, T=T, dtype=str(dtype)[6:])


# ---- accuracy
def accuracy(c: Config) -> list[dict]: # Rows with max_error of E, or error
    "Largest error of E of two pairs, alike and unrelated, in float32 and float64; once more with costs of thousands, as of features nobody normalised."
    rows = []
    cases = [(T, gamma, 1., dtype) for T in c.accuracy_T for gamma in c.accuracy_gamma for dtype in (torch.float32, torch.float64)]
    cases += [(T, .1, 1000., torch.float32) for T in c.accuracy_T]
    for T, gamma, scale, dtype in cases:
        x, y = series(1, T, 16, dtype, c.seed)
        cost = scale*cost_matrix(x, torch.cat([y, series(1, T, 16, dtype, c.seed + 1)[1]]), 'sqeuclidean')
        _, E = oracle(cost, gamma)
        for p in split('soft')[0]:
            leaf, row = cost.clone().requires_grad_(), dict(T=T, gamma=gamma, scale=scale, dtype=str(dtype)[6:], name=p.name)
            try:
                step(partial(p.soft, gamma=gamma), leaf)()
                off = float((leaf.grad - E).abs().max())
                rows.append(row | (dict(max_error=off) if off == off else dict(error='NaN')))
            except Exception as e: rows.append(row | dict(error=first_line(e)))
    return rows


# ---- all of it
def cpu(c: Config) -> dict:
    "Everything for the CPU."
    inside, outside = split('soft')
    dtypes = [getattr(torch, name) for name in c.dtypes]
    return dict(
        rows=[r for dtype in dtypes for shape in c.soft for r in compare_soft(*shape, dtype, c, inside)]
            + [r for shape in c.embs for r in compare_embs(*shape, c)]
            + [r for dtype in dtypes for shape in c.path for r in compare_path(*shape, dtype, c)]
            + sweep([(1, T) for T in c.sweep_T], 'sweep T', c) + sweep([(B, 240) for B in c.sweep_B], 'sweep B', c),
        accuracy=accuracy(c), memory=memory(c), compile=compile_times(3 if c.memory_long else 1), absent={r['name']: r['error'] for r in outside})


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--quick', action='store_true', help='few shapes, few rounds')
    p.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    p.add_argument('--out', type=Path, default=RESULTS, help='folder of the record')
    args = p.parse_args()
    start, c = time.perf_counter(), QUICK if args.quick else Config()
    failed = install()
    if args.device == 'cuda':
        from kernels_cuda import cuda
        record = cuda(args.quick)
    else: record = dict(config=asdict(c), **cpu(c))
    record['absent'] = {f'pip install {name}': why for name, why in failed.items()} | record.get('absent', {})
    notes = {p.name: dict(package=p.package, note=p.note) for p in CONTESTANTS}
    write(f'kernels-{args.device}', dict(quick=args.quick, versions=versions(*NAMES), contestants=notes, **record), start, args.out)


if __name__ == '__main__': main()
