"""What the figures of `nbs/96_figures.ipynb` are drawn from: results/figures/.

python benchmarks/figures.py aligned RUN [RUN …]   # of trained runs: folders with config.json, result.json and checkpoint.safetensors
python benchmarks/figures.py propagation           # trains LRProp on the built-in videos and watches its priors; some minutes
python benchmarks/figures.py propagation --quick   # two epochs, to try it; writes nothing
python benchmarks/figures.py repairs RUN [RUN …]   # of trained runs: would another reading of the path bring the prior nearer the truth?

`aligned` needs no more than the encoder; the frames of a figure are rendered where it is drawn.
"""
from common import ROOT, versions, write  # first: it sets the number of threads

# isort: split
import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lrprop.align import align
from lrprop.checkpoint import load_encoder
from lrprop.core import Video, rng_at, seed_torch_at
from lrprop.dtw import cost_matrix, dtw_matrix
from lrprop.encoder import Encoder
from lrprop.evaluate import embed_trained
from lrprop.experiments import Experiment, load_videos, make_loss, resolve
from lrprop.priors import log_prior, log_similarity
from lrprop.propagation import cross_pairs, first_match, log_propagated_prior
from lrprop.runs import experiment_of, provenance, read_json
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


@dataclass(frozen=True)
class Clips:
    "The clips of a batch, and the truth about its pairs of clips."
    frames: Tensor    # (N, T, d)
    steps: Tensor     # (N, T)
    mask: Tensor      # (N, T)
    progress: Tensor  # (N, T, 1) exact clock
    pairs: dict[str, tuple[Tensor, Tensor]]  # 'cross' and 'same' (video): clips of the anchors, clips of the candidates
    near: dict[str, Tensor]  # (P, T, T) bool, valid candidates near the truth, as `near_truth`


def _pairs(V: int, K: int) -> dict[str, tuple[Tensor, Tensor]]:
    "Both orders of all pairs of clips that LRProp compares."
    (b, a), video = cross_pairs(V, K), torch.arange(V*K)//K
    same = (video[:, None] == video) & ~torch.eye(V*K, dtype=torch.bool)
    return dict(cross=(torch.cat([b, a]), torch.cat([a, b])), same=same.nonzero().unbind(1))


def draw_clips(videos: Sequence[Video], e: Experiment, rng: np.random.Generator) -> Clips:
    "A batch as training samples it."
    batch = sample_batch(videos, e.n_frames, e.n_views, rng, sampler=e.sampler, block_base=e.block_base)
    frames, steps, mask = (x.flatten(0, 1) for x in (batch.frames, batch.steps, batch.mask))
    clocks, pairs = [v.progress for v in videos for _ in range(e.n_views)], _pairs(len(videos), e.n_views)
    near = {kind: torch.stack([near_truth(steps[b], steps[a], clocks[b], clocks[a], e.sigma2**.5) & mask[a] for b, a in zip(*p)]) for kind, p in pairs.items()}
    return Clips(frames, steps, mask, torch.stack([torch.from_numpy(c[s]) for c, s in zip(clocks, steps)])[..., None], pairs, near)


class Watched:
    "Clips of training videos, drawn once, and where priors and similarities put their mass on them."

    def __init__(self, videos: Sequence[Video], e: Experiment, c: Config):
        self.e = e
        groups = [epoch_groups(videos, e.n_videos, rng_at(c.seed, 'watched', k)) for k in range(c.n_rounds)]
        self.batches = [draw_clips(group, e, rng_at(c.seed, 'watched', k, i)) for k, of in enumerate(groups) for i, group in enumerate(of)]
        self.n_pairs = sum(len(x.near['cross']) for x in self.batches)
        self.unanswered = float(torch.cat([~x.near['cross'].any(-1)[x.mask[x.pairs['cross'][0]]] for x in self.batches]).float().mean())  # share of anchors without a candidate near the truth

    def _mass(self, name: str, log_p: Callable[[Clips, Tensor, Tensor], Tensor], kind: str = 'cross') -> dict[str, float]:
        "Mass near the truth of `log_p(clips, b, a)`: mean over all anchors, and over those that have a candidate near the truth."
        shares, answerable = [], []
        for x in self.batches:
            b, a = x.pairs[kind]
            shares.append(mass_near(log_p(x, b, a), x.near[kind])[x.mask[b]])
            answerable.append(x.near[kind].any(-1)[x.mask[b]])
        shares, answerable = torch.cat(shares), torch.cat(answerable)
        return {name: float(shares.mean()), f'{name}_answerable': float(shares[answerable].mean())}

    def _along(self, x: Clips, b: Tensor, a: Tensor, z: Tensor) -> Tensor:
        "The prior propagated along the DTW path of `z` (N, T, d)."
        path = dtw_matrix(cost_matrix(z[b], z[a], self.e.kind), torch.stack([x.mask[b].sum(-1), x.mask[a].sum(-1)], -1))
        return log_propagated_prior(path, x.steps[b], x.mask[a], self.e.sigma2)

    def bounds(self) -> dict[str, float]:
        "What does not depend on the encoder: the prior of the same video, of the true path, of the straight diagonal, and no prior at all."
        def same(x, b, a): return log_prior(x.steps[b], x.steps[a], x.mask[a], self.e.sigma2)
        def oracle(x, b, a): return self._along(x, b, a, x.progress)
        def diagonal(x, b, a): return self._along(x, b, a, (torch.arange(x.mask.shape[1])/(x.mask.sum(-1, keepdim=True) - 1)).double()[..., None])
        def uniform(x, b, a): return torch.where(x.mask[a], 0., -torch.inf).log_softmax(-1)[:, None].expand_as(x.near['cross'])
        return self._mass('same_video', same, 'same') | self._mass('oracle', oracle) | self._mass('diagonal', diagonal) | self._mass('uniform', uniform)

    @torch.no_grad()
    def __call__(self, encoder: Encoder) -> dict[str, float]:
        "Of an encoder in evaluation mode: its propagated prior, and its own similarities (eq. 1), which the loss pulls towards it."
        seen = {id(x): encoder.project(encoder(x.frames, x.mask)) for x in self.batches}
        def propagated(x, b, a): return self._along(x, b, a, seen[id(x)])
        def similarity(x, b, a): return log_similarity(seen[id(x)][b], seen[id(x)][a], x.mask[a], self.e.temperature)
        return self._mass('propagated', propagated) | self._mass('similarity', similarity)


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


# ---- would another reading of the path help
REACHES = (0, 1, 3, 9)  # Frames between an anchor and the nearest match


def match_gaps(path: Tensor, times: Tensor) -> Tensor: # (P, T_B, T_A)
    "Frames between each anchor and the nearest of all frames that each candidate is aligned with; eq. 7 takes the first of them."
    first, last = first_match(path), path.shape[-2] - 1 - first_match(path.flip(-2))
    low, high, at = times.gather(-1, first)[:, None], times.gather(-1, last)[:, None], times[..., None]
    return (low - at).clamp(min=0) + (at - high).clamp(min=0)


def repaired(x: Clips, z: Tensor, e: Experiment) -> tuple[Tensor, Tensor, Tensor]:
    "Of each valid anchor: mass near the truth by eq. 7, by the nearest match instead of the first, and frames to the nearest first match."
    b, a = x.pairs['cross']
    path = dtw_matrix(cost_matrix(z[b], z[a], e.kind), torch.stack([x.mask[b].sum(-1), x.mask[a].sum(-1)], -1))
    printed = log_propagated_prior(path, x.steps[b], x.mask[a], e.sigma2)
    nearest = torch.where(x.mask[a][:, None], -match_gaps(path, x.steps[b])**2/(2*e.sigma2), -torch.inf).log_softmax(-1)
    to_first = (x.steps[b][..., None] - x.steps[b].gather(-1, first_match(path))[:, None]).abs().float().masked_fill(~x.mask[a][:, None], torch.inf).amin(-1)
    return tuple(v[x.mask[b]] for v in (mass_near(printed, x.near['cross']), mass_near(nearest, x.near['cross']), to_first))


def repairs(folder: Path, c: Config) -> tuple[str, dict]: # Name of the record, and the record
    "Of the path by a run's encoder and of the true one: the mass of eq. 7, of the nearest match, and of eq. 7 without the anchors that have no match near."
    config = read_json(folder/'config.json')
    e = resolve(experiment_of(config))
    watched, encoder = Watched([v for v in load_videos(e) if v.split == 'train'], e, c), load_encoder(folder/'checkpoint.safetensors').eval()
    found = {}
    with torch.no_grad():
        for name, embed in (('encoder', lambda x: encoder.project(encoder(x.frames, x.mask))), ('oracle', lambda x: x.progress)):
            printed, nearest, gap = map(torch.cat, zip(*(repaired(x, embed(x), e) for x in watched.batches)))
            found[name] = dict(printed=float(printed.mean()), nearest=float(nearest.mean()),
                               reach={r: dict(kept=float((gap <= r).float().mean()), mass=float(printed[gap <= r].mean())) for r in REACHES})
    return f'repairs-s{e.seed}', dict(run=config, tolerance=e.sigma2**.5, n_pairs=watched.n_pairs, paths=found)


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
    e = experiment_of(config)
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
    of_runs = dict(aligned=aligned, repairs=repairs)
    for mode in of_runs: modes.add_parser(mode, help='from trained runs').add_argument('runs', nargs='+', type=Path, help='folders of runs on the built-in videos')
    modes.add_parser('propagation', help='trains').add_argument('--quick', action='store_true', help='two epochs; writes nothing')
    args, c = p.parse_args(), Config()
    save = partial(write, folder=ROOT/'results'/'figures')
    about = dict(seed=c.seed, device=provenance('cpu')['device'], versions=versions('lrprop', 'numpy', 'numba', 'torch'))
    if args.mode in of_runs:
        for folder in args.runs:
            start = time.perf_counter()
            name, record = of_runs[args.mode](folder, c)
            save(name, dict(config=dict(n_others=c.n_others), **about, **record), start)
        return
    if args.quick: c = Config(n_epochs=2, every=1, n_rounds=1)
    start = time.perf_counter()
    record = propagation(c)
    print(record['unanswered'], record['bounds'], *record['looks'], sep='\n')
    if not args.quick: save(f'propagation-s{c.seed}', dict(config=asdict(c), **about, **record), start)


if __name__ == '__main__':
    main()
