"""Time and memory of the loss of every method, each fed as its recipe says: results/benchmarks/losses-cpu.json, or losses-cuda.json.

python benchmarks/losses.py                  # about four minutes
python benchmarks/losses.py --quick          # few rounds, to try it; writes nothing
python benchmarks/losses.py --device cuda

Beside each stands a plain version: the equation in torch under autograd, a clip or a pair at a time without padding, as public code
has it. It must give the same value and gradient, in float64, before anything is timed.
"""
from common import first_line, interleaved, versions, write  # first: it sets the number of threads

# isort: split
import argparse
import json
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

import losses_plain
from footprint import extra
from lrprop.core import Video
from lrprop.experiments import Experiment, make_loss
from lrprop.losses.tcc import ordered_pairs
from lrprop.methods import METHODS
from lrprop.propagation import cross_pairs
from lrprop.sampling import sample_batch
from peers import step


@dataclass(frozen=True)
class Config:
    "What is measured. `(V, T)` each: videos a batch, slots a clip."
    seed: int = 0
    d: int = 128
    lengths: tuple = ((2, 240), (2, 1000))           # With the plain versions
    videos: tuple = ((2, 240), (4, 240), (8, 240))   # How cost grows with V
    raw_scale: float = 10.                           # Length of embeddings that a method takes as they are
    lambda1: float = .01                             # Of LRProp, as the paper has it for Pouring
    lambda2: float = .8
    rounds: int = 5
    cap_s: float = 1.5 # s a contestant may take in one comparison


# ---- what they are given
def videos(V: int, T: int, c: Config) -> list[Video]:
    "One curve, every video at its own pace and with its own noise, about twice as long as a clip; frames are embeddings."
    rng = np.random.default_rng(c.seed)
    walk, made = rng.normal(size=(2*T, c.d)).cumsum(0), []
    for v in range(V):
        at = np.linspace(0, 1, 2*T + 10*v)**(1 + .1*v)
        z = walk[(at*(2*T - 1)).round().astype(int)] + .3*rng.normal(size=(len(at), c.d))
        made.append(Video(f'{v}', (z/np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)))
    return made


def given(method: str, V: int, T: int, device: str, c: Config) -> tuple: # embs (V, K, T, d) leaf; steps, seq_lens, mask
    "A batch as the method's recipe samples it: its sampler, its number of views, unit length or raw."
    recipe = METHODS[method]
    n_frames = T//2 if recipe.sampler == 'positive_pairs' else T
    b = sample_batch(videos(V, T, c), n_frames, recipe.n_views, np.random.default_rng(c.seed), device=device, sampler=recipe.sampler)
    embs = b.frames*(c.raw_scale if recipe.output == 'raw' else 1)
    return embs.requires_grad_(), b.steps, b.seq_lens, b.mask


def ours(method: str, device: str, c: Config):
    "The loss as training makes it, its named parts added up."
    torch.manual_seed(c.seed)
    loss = make_loss(Experiment(method=method, lambda1=c.lambda1, lambda2=c.lambda2))
    if isinstance(loss, torch.nn.Module): loss.to(device)
    def value(*batch):
        found = loss(*batch)
        return sum(found.values()) if isinstance(found, dict) else found
    return value, loss


def plain(method: str, loss, c: Config):
    "The plain version of a loss."
    settings = dict(lambda1=c.lambda1, lambda2=c.lambda2) if method.startswith('lrprop') else {}
    return partial(getattr(losses_plain, f'{method}_plain'), loss, **settings)


# ---- measuring
def disagreement(a, b, own, batch, c: Config) -> dict:
    "Relative difference of value and gradient of two losses, in float64."
    found, module = [], isinstance(own, torch.nn.Module)
    if module: own.double()
    z = batch[0].detach().double().requires_grad_()
    for loss in (a, b):
        torch.manual_seed(c.seed) # of the triplets
        value = loss(z, *batch[1:])
        found.append((value.detach(), torch.autograd.grad(value, z)[0]))
    if module: own.float()
    (u, gu), (v, gv) = found
    return dict(value=float((u - v).abs()/v.abs()), gradient=float((gu - gv).norm()/gv.norm()))


def works(method: str, V: int, K: int) -> dict:
    "What a loss goes through one by one, and how many of them."
    pairs = {'tcc': len(ordered_pairs(V, K)[0]), 'scl': V*K*(K - 1)}.get(method, len(cross_pairs(V, K, 'diagonal' if method == 'lrprop_crop' else 'all')[0]))
    return dict(sal=dict(unit='triplets of frames', n=8*V*K), tcn=dict(unit='clips', n=V*K), scl=dict(unit='ordered pairs of views', n=pairs),
                tcc=dict(unit='ordered pairs of clips', n=pairs)).get(method) or dict(unit='pairs of clips', n=pairs)


def timed(V: int, T: int, with_plain: bool, device: str, c: Config) -> list[dict]:
    "A row for each method and version: seconds of value, and of value and gradient. All of one size take turns."
    runs, rows = {}, {}
    sync = torch.cuda.synchronize if device == 'cuda' else lambda: None
    for method in METHODS:
        batch, (loss, own) = given(method, V, T, device, c), ours(method, device, c)
        for name, f in dict(lrprop=loss, **dict(plain=plain(method, own, c)) if with_plain else {}).items():
            one = step(lambda z, f=f, rest=batch[1:]: f(z, *rest), batch[0])
            def value(f=f, batch=batch):
                with torch.no_grad(): f(*batch)
                sync()
            def gradient(run=one):
                run()
                sync()
            row = rows[method, name] = dict(method=method, name=name, V=V, K=batch[0].shape[1], T=T, **works(method, *batch[0].shape[:2]))
            if name == 'plain':
                row['difference'] = disagreement(loss, f, own, batch, c)
                if max(row['difference'].values()) > 1e-5: raise ValueError(f"{method}, V={V}, T={T}: the plain version differs: {row['difference']}")
            runs[method, name, 'value'], runs[method, name, 'gradient'] = value, gradient
    for (method, name, what), t in interleaved(runs, c.rounds, cap_s=c.cap_s).items(): rows[method, name][what] = t
    for (method, name), row in rows.items():
        ms = (f"{what} {1e3*row[what].get('median', np.nan):8.2f} ms" for what in ('value', 'gradient'))
        print(f'{method:12s}{name:8s}V={V} T={T:5d}', *ms, row.get('difference', ''), flush=True)
    return list(rows.values())


def peak(run, device: str) -> float: # MiB
    "Extra memory while `run` runs: of the process (Linux), or of what torch holds on the GPU."
    if device == 'cpu': return extra(run)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before)/2**20


def kept(loss, batch) -> float: # MiB
    "What autograd keeps for the way back, each storage once: a number that does not vary."
    held = {}
    def pack(x):
        held[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x): loss(*batch)
    return sum(s.nbytes() for s in held.values())/2**20


def measure_memory(method: str, device: str, c: Config) -> None:
    "Child: print a line for each version and (V, T); the peak of value and gradient, after a small call."
    for name, points in dict(lrprop=sorted({*c.lengths, *c.videos}, key=lambda p: p[0]*p[1]), plain=c.lengths).items():
        for V, T in points:
            small, batch = (given(method, V, n, device, c) for n in (32, T))
            loss, own = ours(method, device, c)
            f = loss if name == 'lrprop' else plain(method, own, c)
            warm, run = (step(lambda z, rest=b[1:]: f(z, *rest), b[0]) for b in (small, batch))
            warm()
            print(json.dumps(dict(method=method, name=name, V=V, T=T, extra_mib=round(peak(run, device), 2), kept_mib=round(kept(f, batch), 4))), flush=True)


def memory(device: str, c: Config) -> list[dict]:
    "Memory of every row, each method in a process of its own."
    if device == 'cpu' and not Path('/proc/self/clear_refs').exists(): return [dict(method='all', name='all', error='peak memory is measured on Linux only')]
    rows = []
    for method in METHODS:
        done = subprocess.run([sys.executable, __file__, '--memory', method, '--device', device], capture_output=True, text=True, timeout=300, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]
        if done.returncode: lines.append(dict(method=method, name='', error=first_line((done.stderr.strip().splitlines() or ['no message'])[-1])))
        rows += lines
        words = (f"{r['name']} {r['V']}x{r['T']}: {r['extra_mib']} MiB, {r['kept_mib']} kept" if 'V' in r else r['error'] for r in lines)
        print('memory', method, *words, sep=' · ', flush=True)
    return rows


def growth(rows: list[dict], c: Config) -> dict: # Method -> time and memory by V as multiples of the fewest videos, and how much of it is pairs
    "How cost grows with V: what is kept is solved for a + b·V + c·V(V-1)/2, and more than a hundredth in the last term is called quadratic."
    found, Vs, T = {}, [V for V, _ in c.videos], c.videos[0][1]
    for method in METHODS:
        mine = {r['V']: r for r in rows if (r['method'], r['name'], r['T']) == (method, 'lrprop', T)}
        seq = [mine[V] for V in Vs]
        g = found[method] = dict(V=Vs, works=[r['n'] for r in seq], time=[r['gradient']['median']/seq[0]['gradient']['median'] for r in seq])
        if not all('kept_mib' in r for r in seq): continue
        for name in ('extra', 'kept'): g[name] = [r[f'{name}_mib']/seq[0][f'{name}_mib'] for r in seq]
        *_, of_pairs = np.linalg.solve([[1, V, V*(V - 1)/2] for V in Vs], [r['kept_mib'] for r in seq])
        g['share_of_pairs'] = float(of_pairs*Vs[-1]*(Vs[-1] - 1)/2/seq[-1]['kept_mib'])
        g['word'] = 'quadratic' if g['share_of_pairs'] > .01 else 'linear'
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--quick', action='store_true', help='one round; writes nothing')
    p.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    p.add_argument('--memory', help=argparse.SUPPRESS) # what a child measures
    args = p.parse_args()
    start, c = time.perf_counter(), Config(rounds=1) if args.quick else Config()
    if args.memory:
        measure_memory(args.memory, args.device, c)
        return
    rows = [r for V, T in dict.fromkeys((*c.lengths, *c.videos)) for r in timed(V, T, (V, T) in c.lengths, args.device, c)]
    held = {(r['method'], r['name'], r.get('V'), r.get('T')): r for r in memory(args.device, c)}
    for r in rows: r |= held.pop((r['method'], r['name'], r['V'], r['T']), {})
    record = dict(config=asdict(c), seed=c.seed, device=args.device, versions=versions('lrprop', 'numpy', 'numba', 'torch', 'tslearn'),
                  recipes={m: dict(output=r.output, sampler=r.sampler, n_views=r.n_views) for m, r in METHODS.items()},
                  rows=rows, growth=growth(rows, c), errors=list(held.values()))
    for method, g in record['growth'].items(): print(method, {k: np.round(v, 2).tolist() if k != 'word' else v for k, v in g.items()})
    if not args.quick: write(f'losses-{args.device}', record, start)


if __name__ == '__main__':
    with warnings.catch_warnings():
        warnings.simplefilter('error') # a fall-back to something slow would hide
        main()
