"""What the figures of `nbs/96_figures.ipynb` are drawn from: results/figures/.

python benchmarks/figures.py aligned RUN [RUN …]   # of trained runs: folders with config.json, result.json and checkpoint.safetensors
python benchmarks/figures.py propagation           # trains LRProp on the built-in videos and watches its priors; some minutes
python benchmarks/figures.py propagation --quick   # two epochs, to try it; writes nothing

`aligned` needs no more than the encoder; the frames of a figure are rendered where it is drawn.
"""
import common  # first: it sets the number of threads

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import ROOT, versions, write
from torch import Tensor

from lrprop.align import align
from lrprop.checkpoint import load_encoder
from lrprop.core import Batch, Video, rng_at, seed_torch_at
from lrprop.dtw import cost_matrix, dtw_matrix
from lrprop.encoder import Encoder
from lrprop.evaluate import embed_trained
from lrprop.experiments import Experiment, load_videos, make_loss, resolve
from lrprop.priors import log_prior, log_similarity
from lrprop.propagation import cross_pairs, log_propagated_prior
from lrprop.runs import provenance, read_json
from lrprop.sampling import epoch_groups, sample_batch
from lrprop.trainer import fit


@dataclass(frozen=True)
class Config:
    "What is computed."
    n_others: int = 5    # Videos aligned with the query: those that follow it
    seed: int = 0        # Of the training, and of the clips
    n_epochs: int = 60
    lr: float = 3e-4
    every: int = 3       # Epochs from one look at the priors to the next
    n_rounds: int = 2    # How often a look takes every training video


# ---- how near the truth a prior is
def near_truth(anchors: Tensor, candidates: Tensor, clock_b: np.ndarray, clock_a: np.ndarray, tolerance: float) -> Tensor: # (T_B, T_A) bool
    "Does each candidate frame of A show what B shows within `tolerance` frames of each anchor? Where a video rests, a whole stretch shows the same."
    frames, now = np.arange(len(clock_b)), clock_a[candidates]
    low, high = (np.interp(anchors + d, frames, clock_b)[:, None] for d in (-tolerance, tolerance))
    return torch.from_numpy((low - 1e-9 <= now) & (now <= high + 1e-9))


def mass_near(log_p: Tensor, near: Tensor) -> Tensor: # (…, T_B)
    "Share of each anchor's probability (…, T_B, T_A) on candidates that are near the truth (same shape, bool)."
    return torch.where(near, log_p.exp(), 0.).sum(-1)


def _pairs(batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    "Which clips hold the anchors and which the candidates: both orders of all pairs that training takes."
    V, K = batch.mask.shape[:2]
    b, a = cross_pairs(V, K)
    clips = torch.arange(V*K).view(V, K)
    own = [(int(clips[v, i]), int(clips[v, j])) for v in range(V) for i in range(K) for j in range(K) if i != j]
    return dict(cross=(torch.cat([b, a]), torch.cat([a, b])), same=tuple(torch.tensor(own).T))


class Watched:
    "Clips of training videos, drawn once as training draws them, with the truth about every pair of clips."

    def __init__(self, videos: Sequence[Video], e: Experiment, c: Config):
        self.e, self.batches = e, []
        clocks = {v.name: v.progress for v in videos}
        for k in range(c.n_rounds):
            for i, group in enumerate(epoch_groups(videos, e.n_videos, rng_at(c.seed, 'watched', k))):
                batch = sample_batch(group, e.n_frames, e.n_views, rng_at(c.seed, 'watched', k, i), sampler=e.sampler, block_base=e.block_base)
                pairs, steps = _pairs(batch), batch.steps.flatten(0, 1)
                clock = [clocks[name] for name in batch.names for _ in range(e.n_views)]
                near = {kind: torch.stack([near_truth(steps[b], steps[a], clock[b], clock[a], e.sigma2**.5) for b, a in zip(*(x.tolist() for x in p))]) for kind, p in pairs.items()}
                progress = torch.stack([torch.from_numpy(p[s]) for p, s in zip(clock, steps)])[..., None]
                self.batches.append((batch, pairs, near, progress))
        self.n_pairs = sum(len(p['cross'][0]) for _, p, _, _ in self.batches)
        unanswered = [~(near['cross'] & b.mask.flatten(0, 1)[p['cross'][1]][:, None]).any(-1)[b.mask.flatten(0, 1)[p['cross'][0]]] for b, p, near, _ in self.batches]
        self.unanswered = float(torch.cat(unanswered).float().mean())  # share of anchors without a candidate near the truth

    def _mean(self, name: str, log_p, kind: str = 'cross') -> dict[str, float]:
        "Mass near the truth of `log_p(batch, steps, mask, anchors' clips, candidates' clips, progress)`: mean over all anchors, and over those that have a candidate near the truth."
        shares, answerable = [], []
        for batch, pairs, near, progress in self.batches:
            steps, mask, (b, a) = batch.steps.flatten(0, 1), batch.mask.flatten(0, 1), pairs[kind]
            found = near[kind] & mask[a][:, None]
            shares.append(mass_near(log_p(batch, steps, mask, b, a, progress), found)[mask[b]])
            answerable.append(found.any(-1)[mask[b]])
        shares, answerable = torch.cat(shares), torch.cat(answerable)
        return {name: float(shares.mean()), f'{name}_answerable': float(shares[answerable].mean())}

    def _along(self, x: Tensor, steps: Tensor, mask: Tensor, b: Tensor, a: Tensor) -> Tensor:
        "The prior propagated along the DTW path of `x` (clips, T, d)."
        path = dtw_matrix(cost_matrix(x[b], x[a], self.e.kind), torch.stack([mask[b].sum(-1), mask[a].sum(-1)], -1))
        return log_propagated_prior(path, steps[b], mask[a], self.e.sigma2)

    def bounds(self) -> dict[str, float]:
        "What does not depend on the encoder."
        def same(_, steps, mask, b, a, __): return log_prior(steps[b], steps[a], mask[a], self.e.sigma2)
        def oracle(_, steps, mask, b, a, progress): return self._along(progress, steps, mask, b, a)
        def diagonal(_, steps, mask, b, a, __): return self._along((torch.arange(mask.shape[1])/(mask.sum(-1, keepdim=True) - 1)).double()[..., None], steps, mask, b, a)
        def uniform(_, steps, mask, b, a, __): return torch.where(mask[a], 0., -torch.inf).log_softmax(-1)[:, None].expand(-1, mask.shape[1], -1)
        return self._mean('same_video', same, 'same') | self._mean('oracle', oracle) | self._mean('diagonal', diagonal) | self._mean('uniform', uniform)

    @torch.no_grad()
    def __call__(self, encoder: Encoder) -> dict[str, float]:
        "Of an encoder in evaluation mode: its propagated prior, and its own similarities (eq. 1), which are pulled towards it."
        seen = {id(batch): encoder.project(encoder(batch.frames.flatten(0, 1), batch.mask.flatten(0, 1))) for batch, *_ in self.batches}
        def propagated(batch, steps, mask, b, a, _): return self._along(seen[id(batch)], steps, mask, b, a)
        def similarity(batch, _, mask, b, a, __): return log_similarity(seen[id(batch)][b], seen[id(batch)][a], mask[a], self.e.temperature)
        return self._mean('propagated', propagated) | self._mean('similarity', similarity)


def propagation(c: Config) -> dict:
    "Train LRProp as the registry does, and look at its priors every few epochs."
    e = resolve(Experiment(n_epochs=c.n_epochs, lr=c.lr, seed=c.seed))
    videos = [v for v in load_videos(e) if v.split == 'train']
    watched = Watched(videos, e, c)
    seed_torch_at(e.seed, 'weights')
    encoder = Encoder(in_dim=videos[0].frames.shape[1], n_frames=e.n_frames, depth=e.depth).eval()
    looks = [dict(epoch=0, **watched(encoder))]
    history = fit(encoder, make_loss(e), videos, e.n_frames, e.n_views, e.n_videos, e.n_epochs, lr=e.lr, weight_decay=e.weight_decay, output=e.output,
                  sampling=dict(sampler=e.sampler, block_base=e.block_base), seed=e.seed, evaluate=watched, evaluate_every=c.every, label='lrprop')
    looks += [dict(epoch=h['epoch'] + 1) | {k: h[k] for k in looks[0] if k != 'epoch'} for h in history if 'propagated' in h]
    return dict(experiment=asdict(e), tolerance=e.sigma2**.5, n_pairs=watched.n_pairs, unanswered=watched.unanswered, bounds=watched.bounds(), looks=looks, loss=[h['loss'] for h in history])


# ---- what trained runs align
def _clip_pair(videos: Sequence[Video], encoder: Encoder, e: Experiment, c: Config) -> dict:
    "One clip of each of two training videos, and the distances between them as the loss sees them."
    batch = sample_batch(videos, e.n_frames, 1, rng_at(c.seed, 'clips'), sampler=e.sampler, block_base=e.block_base)
    with torch.no_grad(): z = encoder.eval().project(encoder(batch.frames[:, 0], batch.mask[:, 0]))
    (b, a), (s_b, s_a) = ([x[m] for x, m in zip(of, batch.mask[:, 0])] for of in (z, batch.steps[:, 0]))
    return dict(b=batch.names[0], a=batch.names[1], steps_b=s_b.tolist(), steps_a=s_a.tolist(), cost=cost_matrix(b, a, e.kind).double().numpy().round(3).tolist())


def aligned(folder: Path, c: Config) -> tuple[str, dict]: # Name of the record, and the record
    "Align the first validation video with those that follow, by the encoder of a run."
    config, result = read_json(folder/'config.json'), read_json(folder/'result.json')
    e = Experiment(**{f.name: config[f.name] for f in fields(Experiment) if f.name in config})
    encoder, videos = load_encoder(folder/'checkpoint.safetensors'), load_videos(replace(e, n_variants=0))
    query, *others = [v for v in videos if v.split == 'val'][:1 + c.n_others]
    embed = embed_trained(encoder)
    z = embed(query)
    paths = [dict(name=v.name, path=align(z, embed(v), e.kind).path.tolist()) for v in others]
    record = dict(run=config, trained={k: result[k] for k in ('commit', 'device', 'versions')}, query=query.name, others=paths)
    if e.method == 'lrprop': record['clips'] = _clip_pair([v for v in videos if v.split == 'train'][:2], encoder, resolve(e), c)
    return f'aligned-{e.method}-s{e.seed}', record


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    modes = p.add_subparsers(dest='mode', required=True)
    modes.add_parser('aligned', help='from trained runs').add_argument('runs', nargs='+', type=Path, help='folders of runs on the built-in videos')
    modes.add_parser('propagation', help='trains').add_argument('--quick', action='store_true', help='two epochs; writes nothing')
    args, c = p.parse_args(), Config()
    save = partial(write, folder=ROOT/'results'/'figures')
    about = dict(seed=c.seed, device=provenance('cpu')['device'], versions=versions('lrprop', 'numpy', 'numba', 'torch'))
    if args.mode == 'aligned':
        for folder in args.runs:
            start = time.perf_counter()
            name, record = aligned(folder, c)
            save(name, dict(config=dict(n_others=c.n_others), **about, **record), start)
        return
    if args.quick: c = Config(n_epochs=2, every=1, n_rounds=1)
    start = time.perf_counter()
    record = propagation(c)
    print(record['unanswered'], record['bounds'], *record['looks'], sep='\n')
    if not args.quick: save(f'propagation-s{c.seed}', dict(config=asdict(c), **about, **record), start)


if __name__ == '__main__':
    main()
