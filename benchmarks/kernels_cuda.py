"""The CUDA half of kernels.py: value and gradient, and paths, against the CUDA versions of the peers, beside what the hardware allows."""
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import triton
import triton.language as tl

from kernels import Config, agree, compare, oracle, path_error, split
from lrprop.dtw import cost_matrix, dtw_path
from peers import series, step

SHAPES = (*((2**k, 240) for k in range(10)), (1, 1000), (1, 2000)) # (B, T)
QUICK = ((1, 240), (32, 240), (1, 1000))


# ---- floors
@triton.jit
def _chain(out_ptr, n, SOFT: tl.constexpr):
    "n steps, each waiting for the last: a soft minimum with its distance, or one multiply-add."
    x = tl.load(out_ptr)
    d = x
    for _ in range(n):
        if SOFT: x = d - tl.log2(tl.exp2(-x) + 1.0)  # noqa: SIM108 - decided when it is compiled
        else: x = x * 0.5 + d
    tl.store(out_ptr, x)


def _seconds(run: Callable, n: int = 9) -> float:
    "Median synchronised seconds of a call."
    times = []
    for _ in range(n):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def step_latency(soft: bool, n: int = 200_000) -> float:
    "Seconds of one dependent step, from the difference of two lengths of chain, so that the launch drops out."
    x = torch.full((1,), .5, device='cuda')
    long, short = (_seconds(lambda m=m: _chain[(1,)](x, m, soft, num_warps=1)) for m in (2*n, n))
    return (long - short)/n


def bandwidth(n_bytes: int = 2**30) -> float:
    "Bytes a second of a copy, read and write together."
    a = torch.zeros(n_bytes//4, device='cuda')
    b = torch.empty_like(a)
    return 2*n_bytes/_seconds(lambda: b.copy_(a))


def floors(shapes) -> dict:
    "What no kernel can beat: 2T-1 dependent soft minima and as many multiply-adds back; the cost read once, E written once."
    soft, fma, rate = step_latency(True), step_latency(False), bandwidth()
    each = [dict(B=B, T=T, latency=(2*T - 1)*(soft + fma), bandwidth=2*4*B*T*T/rate) for B, T in shapes]
    return dict(soft_step=soft, fma_step=fma, bytes_per_s=rate, floors=each)


# ---- comparisons
def synchronised(run: Callable) -> Callable:
    "A call that ends when the device has finished."
    def wait():
        found = run()
        torch.cuda.synchronize()
        return found
    return wait


def queued(run: Callable, n: int = 20) -> float:
    "Seconds of a call among many queued without waiting, by CUDA events: what a training step pays."
    run()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(n): run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)/n/1e3


def compare_soft(B: int, T: int, c: Config) -> list[dict]:
    "Value and gradient from a cost on the device, float32; `queued` beside the synchronised median."
    host = cost_matrix(*series(B, T, 16, seed=c.seed), 'sqeuclidean')
    inside = split('soft', 'cuda')[0]
    leaves = {p.name: host.cuda().requires_grad_() for p in inside}
    steps = {p.name: step(partial(p.soft, gamma=c.gamma), leaves[p.name]) for p in inside}
    value, E = oracle(host, c.gamma)
    verify = {n: partial(agree, run, [leaves[n]], value.sum(), [E]) for n, run in steps.items()}
    rows = compare({n: synchronised(run) for n, run in steps.items()}, verify, c, section='soft', B=B, T=T, dtype='float32')
    return [r | (dict(queued=queued(steps[r['name']])) if 'median' in r else {}) for r in rows]


def compare_path(B: int, T: int, c: Config) -> list[dict]:
    "Paths of a cost on the device, as arrays on the host; the pairs one by one where a peer knows no batch."
    x, y = (v.cuda() for v in series(B, T, c.d, seed=c.seed))
    cost = cost_matrix(x, y, 'sqeuclidean')
    runs = {p.name: partial(p.path, cost, x, y) for p in split('path', 'cuda')[0]}
    host = cost.cpu()
    best = np.atleast_1d(dtw_path(host)[0])
    numpy = lambda paths: [p.cpu().numpy() if isinstance(p, torch.Tensor) else p for p in paths]
    verify = {n: lambda run=run: path_error(numpy(run()), host, best) for n, run in runs.items()}
    return compare({n: synchronised(run) for n, run in runs.items()}, verify, c, section='path', B=B, T=T, dtype='float32')


def cuda(quick: bool) -> dict:
    "Everything for a GPU."
    if not torch.cuda.is_available(): raise SystemExit('no CUDA device here; valid: --device cpu')
    c, shapes = Config(rounds=3, cap_s=.5) if quick else Config(), QUICK if quick else SHAPES
    absent = {r['name']: r['error'] for r in split('soft', 'cuda')[1]}
    return dict(config=dict(seed=c.seed, gamma=c.gamma, rounds=c.rounds, shapes=shapes), absent=absent, limits=floors(shapes),
                rows=[r for s in shapes for r in compare_soft(*s, c)] + [r for s in shapes for r in compare_path(*s, c)])
