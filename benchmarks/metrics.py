"""Scores over all pairs of videos against a direct transcription from SciPy and tslearn, at the size of Pouring and of Penn Action's squats.

python benchmarks/metrics.py            # both sizes, about five minutes; writes results/benchmarks/metrics-cpu.json
python benchmarks/metrics.py --small    # a tenth of the videos, to try it; writes nothing

τ and AP@K are scored on either split, DTW accuracy on validation. Embeddings are made up: unit length, they follow a phase, with noise.
"""
from common import THREADS, interleaved, versions, write  # first: it sets the number of threads

# isort: split
import argparse
import time
import warnings
from itertools import combinations, permutations

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import kendalltau
from tslearn.metrics import dtw_path_from_metric

from lrprop.metrics import average_precision, dtw_accuracy, kendalls_tau

SEED, DIM, KS = 0, 128, (5, 10, 15)
SIZES = { # training and validation videos, fewest and most frames, stride of τ and AP
    'pouring': dict(train=70, val=14, frames=(450, 550), stride=5),
    'squat': dict(train=111, val=115, frames=(60, 100), stride=2),
}
PYTHON_PAIRS = 3 # pairs that plain Python aligns; its time for all pairs is extrapolated by cells


def tau(embs: list[np.ndarray], stride: int) -> float:
    "C.3, a pair at a time."
    embs = [e[::stride] for e in embs]
    nn = [(x, cdist(x, y, 'sqeuclidean').argmin(1)) for x, y in permutations(embs, 2)]
    return float(np.nanmean([kendalltau(np.arange(len(x)), n).statistic for x, n in nn]))


def ap(embs: list[np.ndarray], labels: list[np.ndarray], stride: int) -> list[float]:
    "C.4, a query video at a time."
    embs, labels, scores = [e[::stride] for e in embs], [l[::stride] for l in labels], []
    for i in range(len(embs)):
        others, phases = (np.concatenate(a[:i] + a[i + 1:]) for a in (embs, labels))
        nearest = cdist(embs[i], others, 'sqeuclidean').argsort(1, kind='stable')[:, :max(KS)]
        scores.append([(phases[nearest[:, :k]] == labels[i][:, None]).mean() for k in KS])
    return np.mean(scores, 0).tolist()


def tslearn_path(cost: np.ndarray) -> np.ndarray:
    "Compiled."
    return np.array(dtw_path_from_metric(cost, metric='precomputed')[0])


def python_path(cost: np.ndarray) -> np.ndarray:
    "The recursion as it is written; diagonal, up, left on ties."
    n, m = cost.shape
    R = np.full((n + 1, m + 1), np.inf)
    R[0, 0] = 0
    for i in range(n):
        for j in range(m): R[i + 1, j + 1] = cost[i, j] + min(R[i, j], R[i, j + 1], R[i + 1, j])
    path = [(n - 1, m - 1)]
    while path[-1] != (0, 0):
        i, j = path[-1]
        path.append(min(((i - 1, j - 1), (i - 1, j), (i, j - 1)), key=lambda c: R[c[0] + 1, c[1] + 1]))
    return np.array(path[::-1])


def dtw(embs: list[np.ndarray], labels: list[np.ndarray], path=tslearn_path, n_pairs: int | None = None) -> float:
    "C.5, a pair at a time; the first `n_pairs` pairs if given."
    scores = []
    for i, j in list(combinations(range(len(embs)), 2))[:n_pairs]:
        x, y = path(cdist(embs[i], embs[j])).T
        scores.append((labels[i][x] == labels[j][y]).mean())
    return float(np.mean(scores))


def videos(rng: np.random.Generator, n: int, frames: tuple[int, int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    "Embeddings on a curve common to all videos, each at its own changing speed, and five phases."
    curve, embs, labels = np.random.default_rng(SEED).normal(size=(8, DIM)), [], []
    for t in rng.integers(*frames, n, endpoint=True):
        phase = np.cumsum(speed := rng.uniform(.2, 1, t)) / speed.sum()
        x = np.sin(np.outer(phase, 2 * np.arange(1, 9)) + np.arange(8)) @ curve + rng.normal(size=(t, DIM)) / 3
        embs.append(x / np.linalg.norm(x, axis=1, keepdims=True))
        labels.append(np.searchsorted((.2, .35, .7, .9), phase))
    return embs, labels


def main(small: bool) -> None:
    "Measure, print a table, write the record."
    start, rows = time.perf_counter(), []
    print(f'{THREADS} threads\n{"":34s}{"SciPy":>10s}{"lrprop":>10s}{"ratio":>8s}{"difference":>12s}')

    def show(name, theirs, ours, difference):
        print(f'{name:34s}{theirs:9.3f}s{ours:9.4f}s{theirs / ours:8.1f}' + (f'{difference:12.1e}' if difference is not None else ''), flush=True)

    for size, c in SIZES.items():
        rng, total, python = np.random.default_rng(SEED), np.zeros(2), 0.
        for split in ('train', 'val'):
            embs, labels = videos(rng, c[split] // 10 + 2 if small else c[split], c['frames'])
            contests = {
                'tau': (lambda: tau(embs, c['stride']), lambda: kendalls_tau(embs, c['stride'])),
                'ap': (lambda: ap(embs, labels, c['stride']), lambda: list(average_precision(embs, labels, KS, c['stride']).values())),
            }
            if split == 'val': contests['dtw_accuracy'] = (lambda: dtw(embs, labels), lambda: dtw_accuracy(embs, labels))
            for metric, (theirs, ours) in contests.items():
                difference = float(np.abs(np.subtract(theirs(), ours())).max())
                t = interleaved(dict(scipy=theirs, lrprop=ours), rounds=5, cap_s=30)
                pair = [t[n]['median'] for n in ('scipy', 'lrprop')]
                row = dict(size=size, split=split, metric=metric, videos=len(embs), frames=sum(map(len, embs)), seconds=t, ratio=pair[0] / pair[1], difference=difference)
                show(f'{size} {split} {metric}', *pair, difference)
                if metric == 'dtw_accuracy':
                    n = np.array([len(e) for e in embs])
                    sample = np.array(list(combinations(n, 2))[:PYTHON_PAIRS])
                    once = time.perf_counter()
                    score = dtw(embs, labels, python_path, PYTHON_PAIRS)
                    once = time.perf_counter() - once
                    all_cells = (n.sum()**2 - (n**2).sum()) / 2
                    row['python'] = dict(pairs=PYTHON_PAIRS, seconds=once, extrapolated=float(once * all_cells / sample.prod(1).sum()),
                                         difference=abs(score - dtw(embs, labels, n_pairs=PYTHON_PAIRS)))
                    show('  DTW in plain Python*', row['python']['extrapolated'], pair[1], None)
                    python = row['python']['extrapolated'] - pair[0]
                rows.append(row)
                total += pair
        ours = float(total[1])
        for name, theirs in (('all', float(total[0])), ('all, DTW in plain Python', float(total[0] + python))):
            rows.append(dict(size=size, metric=name, seconds=dict(scipy=theirs, lrprop=ours), ratio=theirs / ours))
            show(f'{size} {name}' + '*' * ('Python' in name), theirs, ours, None)
    print(f'* from {PYTHON_PAIRS} pairs, by cells')
    if small: return
    write('metrics-cpu', dict(config=dict(seed=SEED, dim=DIM, ks=KS, sizes=SIZES), versions=versions('lrprop', 'numpy', 'scipy', 'numba', 'torch', 'tslearn'),
                              max_difference=max(r.get('difference', 0) for r in rows), rows=rows), start)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--small', action='store_true', help='a tenth of the videos; writes nothing')
    small = p.parse_args().small
    with warnings.catch_warnings():
        warnings.simplefilter('error') # an average over nothing would hide
        main(small)
