"""A training step on images, by its parts: results/benchmarks/train-cpu.json, or train-cuda.json on a GPU.

python benchmarks/train.py                # about two minutes; writes the record
python benchmarks/train.py --small        # a look, with tiny clips; writes nothing
python benchmarks/train.py --device cuda  # the paper's size: T=240, 2 videos × 2 views, 224²

What is measured: videos decoded once into memory (`store_videos`); steps of 2 videos × 2 views with a ResNet-50 whose layer4 is trained, whole and part by
part; the device's rates of matrix products and of ResNet's convolutions, to see what of them a step reaches; steps from cached features at T=240; and,
beside our way of feeding, that of the released baseline: loader workers that decode the whole video for each sample and change colours picture by picture
with PIL. All weights are random and the videos built in: times do not depend on them. On a CPU clips are short, and the paper's run is projected from frames/s.
"""
from common import quartiles, versions, write  # first: it sets the number of threads

# isort: split
import argparse
import os
import tempfile
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from PIL import ImageFilter
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from lrprop.augment import IMAGENET_MEAN, IMAGENET_STD, draw_ssl, ssl_augment
from lrprop.backbone import PaperBackbone
from lrprop.core import Video, pick_device, rng_at, seed_torch_at
from lrprop.encoder import Encoder
from lrprop.losses.lrprop import lrprop
from lrprop.sampling import sample_batch, time_augment
from lrprop.store import store_videos
from lrprop.synthetic import PouringVideo
from lrprop.trainer import batch_loss
from lrprop.video import VideoFile
from lrprop.writing import write_video

PARTS = ('cut', 'augment', 'trunk', 'layer4', 'head and transformer', 'losses', 'optimiser')
STEPS, PAPER_T, CLIPS = 10_500, 240, 4        # of a Pouring run: 70 videos, 300 epochs, 2 videos × 2 views a step
POURING_FRAMES = 33_000                       # about 5 GB at 224²


@dataclass(frozen=True)
class Config:
    "What is measured."
    device: str = 'cpu'
    seed: int = 0
    size: int = 224             # Side of the images, in pixels
    n_videos: int = 2
    n_views: int = 2
    T: int = 6                  # Frames a clip of the steps on images
    feed_T: int = 40            # Frames a clip when only feeding is compared
    cached_T: int = PAPER_T     # Frames a clip of the steps on features
    cached_dim: int = 2048
    video_frames: int = 186     # Frames a video
    sub_batch: int = 40         # Frames that pass the backbone at a time
    depth: int = 7
    rounds: int = 5
    workers: int = 2            # Loader workers of the baseline's way
    gemm: int = 2048            # Side of the matrices
    variants: tuple = (('float32', None), ('bfloat16', None)) # precision, backend of torch.compile


GPU = Config(device='cuda', T=PAPER_T, feed_T=PAPER_T, rounds=10, workers=os.cpu_count(), gemm=8192, variants=(('float32', None), ('bfloat16', None), ('bfloat16', 'inductor')))
SMALL = Config(size=64, T=4, feed_T=8, cached_T=16, video_frames=40, sub_batch=8, depth=1, rounds=2, gemm=256)


class Clock:
    "Seconds of named parts, with the device's queue empty at both ends."
    def __init__(self, device: torch.device): self.device, self.seconds = device, {}

    def now(self) -> float:
        if self.device.type == 'cuda': torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def __call__(self, part: str):
        start = self.now()
        yield
        self.seconds[part] = self.seconds.get(part, 0.) + self.now() - start


def autocast(device: torch.device, precision: str):
    return torch.autocast(device.type, torch.bfloat16) if precision == 'bfloat16' else nullcontext()


def rate(device: torch.device, run, flops: float, n: int = 5) -> float:
    "Largest FLOP/s of some calls."
    clock = Clock(device)
    for k in range(n + 1):
        if k == 1: clock.seconds.clear()  # the first one warms up
        with clock(str(k)): run()
    return flops / min(clock.seconds.values())


@torch.no_grad()
def roofline(c: Config, device: torch.device, precision: str) -> dict:
    "FLOP/s of a matrix product and of four of ResNet-50's convolutions, forward."
    dtype = getattr(torch, precision)
    a, b = (torch.randn(c.gemm, c.gemm, device=device, dtype=dtype) for _ in range(2))
    out = dict(gemm=rate(device, lambda: a @ b, 2*c.gemm**3), convolutions={})
    for i, o, k, side in ((128, 128, 3, c.size//8), (1024, 256, 1, c.size//16), (256, 256, 3, c.size//16), (512, 512, 3, c.size//32)):
        conv = nn.Conv2d(i, o, k, padding=k//2, bias=False, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        x = torch.randn(c.sub_batch, i, side, side, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        out['convolutions'][f'{k}×{k}, {i} to {o}, {side}²'] = rate(device, lambda: conv(x), 2*c.sub_batch*side*side*k*k*i*o)
    return out | dict(best_convolution=max(out['convolutions'].values()))


def conv_flops(c: Config, backbone: PaperBackbone, device: torch.device) -> dict:
    "FLOPs a frame: trunk forward, layer4 forward and backward."
    x, counted = torch.zeros(2, 3, c.size, c.size, device=device), {}
    with FlopCounterMode(display=False) as flops, torch.no_grad(): maps = backbone.trunk.forward(x)  # not the compiled call
    counted['trunk'] = flops.get_total_flops()/2
    with FlopCounterMode(display=False) as flops: backbone.layer4(maps).sum().backward()
    counted['layer4'] = flops.get_total_flops()/2
    backbone.zero_grad(set_to_none=True)
    return counted


class Training:
    "An encoder, its loss and optimiser, and videos in memory: steps whole and in parts."
    def __init__(self, c: Config, device: torch.device, videos: list[Video], precision: str, backbone: PaperBackbone|None, T: int, compile: str|None = None):
        seed_torch_at(c.seed, 'weights')
        self.c, self.device, self.videos, self.precision, self.T = c, device, videos, precision, T
        self.encoder = Encoder(2048 if backbone else c.cached_dim, T, c.depth, backbone=backbone).to(device).train()
        self.trained = [p for p in self.encoder.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, lr=1e-4, weight_decay=1e-5, fused=True)
        self.loss = partial(lrprop, lambda1=.01, lambda2=.8)
        self.augment = partial(ssl_augment, size=c.size, compile=compile) if backbone else None

    def finish(self) -> None:
        nn.utils.clip_grad_norm_(self.trained, 10.)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def embed(self, frames, mask):
        with autocast(self.device, self.precision): embs = self.encoder(frames, mask)
        return self.encoder.project(embs.float())

    def whole(self, k: int) -> float:
        "A step as training takes it; its loss."
        batch = sample_batch(self.videos, self.T, self.c.n_views, rng_at(self.c.seed, k), self.augment, self.device)
        value, numbers = batch_loss(self.encoder, self.loss, batch, precision=self.precision)
        value.backward()
        self.finish()
        return numbers['loss']

    def parts(self, k: int) -> dict[str, float]:
        "The same step cut at the seams of its parts, each forward and backward; s."
        clock, rng, encoder = Clock(self.device), rng_at(self.c.seed, k), self.encoder
        backbone, encoder.backbone = encoder.backbone, None
        with clock('cut'): batch = sample_batch(self.videos, self.T, self.c.n_views, rng, None, self.device)
        mask = batch.mask.flatten(0, 1)
        with clock('augment'): x = self.augment(batch.frames.flatten(0, 1), rng.spawn(len(mask))).flatten(0, 1)
        with clock('trunk'), autocast(self.device, self.precision), torch.no_grad():
            maps = [backbone.trunk(f.contiguous(memory_format=torch.channels_last)) for f in x.split(self.c.sub_batch)]
        with clock('layer4'), autocast(self.device, self.precision): pooled = torch.cat([backbone.layer4(m).amax((2, 3)) for m in maps])
        features = pooled.detach().requires_grad_()
        with clock('head and transformer'): z = self.embed(features.unflatten(0, mask.shape), mask)
        leaf = z.detach().requires_grad_()
        with clock('losses'): self.loss(leaf.unflatten(0, batch.mask.shape[:2]), batch.steps, batch.seq_lens, batch.mask).backward()
        with clock('head and transformer'): z.backward(leaf.grad)
        with clock('layer4'): pooled.backward(features.grad)
        encoder.backbone = backbone
        with clock('optimiser'): self.finish()
        return clock.seconds


def steps_of(training: Training, rounds: int, also=lambda k: None) -> dict:
    "Seconds a step, frames/s; `also` takes its turn after each."
    clock = Clock(training.device)
    training.whole(0)
    for k in range(rounds):
        with clock(str(k)): training.whole(k + 1)
        also(k + 1)
    n_frames = training.c.n_videos*training.c.n_views*training.T
    times = quartiles(list(clock.seconds.values()))
    return dict(T=training.T, frames=n_frames, step=times, steps_per_s=1/times['median'], frames_per_s=n_frames/times['median'])


def image_steps(c: Config, device: torch.device, videos: list[Video], precision: str, compile: str|None) -> dict:
    "A row: steps on images in one precision, whole and in parts, against the roofline."
    if device.type == 'cuda': torch.cuda.reset_peak_memory_stats(device)
    backbone = PaperBackbone(seed=c.seed, sub_batch=c.sub_batch, compile=compile).to(device)
    flops = conv_flops(c, backbone, device)
    training = Training(c, device, videos, precision, backbone, c.T, compile)
    parts = []
    row = dict(precision=precision, compile=compile, **steps_of(training, c.rounds, lambda k: parts.append(training.parts(k))), flops_per_frame=flops)
    row['parts'] = {p: quartiles([r[p] for r in parts]) for p in PARTS}
    total = sum(row['parts'][p]['median'] for p in PARTS)
    row |= dict(shares={p: row['parts'][p]['median']/total for p in PARTS}, parts_total=total, roofline=roofline(c, device, precision))
    row['flops_per_s'] = row['frames_per_s']*sum(flops.values())
    row |= {f'of_{k}': row['flops_per_s']/row['roofline'][v] for k, v in dict(gemm='gemm', convolution='best_convolution').items()}
    if device.type == 'cuda': row['peak_gib'] = torch.cuda.max_memory_allocated(device)/2**30
    return row


# ---- feeding as the released baseline does
def pil_frame(frame: torch.Tensor, draw) -> torch.Tensor:
    "Colours and blur of one picture (3,H,W) in [0, 1], through PIL; blurred after each of the four changes."
    picture = TF.to_pil_image(frame)
    for op, amount in draw.jitter:
        picture = getattr(TF, f'adjust_{op}')(picture, amount)
        if draw.blur: picture = picture.filter(ImageFilter.GaussianBlur(draw.blur))
    if draw.gray: picture = TF.to_grayscale(picture, 3)
    return TF.to_tensor(picture)


class WholeClips(Dataset):
    "A sample: the video decoded from its first frame to its last, then two views of it, frame by frame."
    def __init__(self, c: Config, paths: list[str], n: int): self.c, self.paths, self.n = c, paths, n
    def __len__(self) -> int: return self.n
    def decode(self, k: int) -> np.ndarray:
        file = VideoFile(self.paths[k % len(self.paths)], self.c.size, threads=1)
        return file[np.arange(len(file))]

    def views(self, frames: np.ndarray, k: int) -> torch.Tensor:
        rng, views = rng_at(self.c.seed, 'feed', k), []
        for _ in range(self.c.n_views):
            steps, _ = time_augment(len(frames), self.c.feed_T, rng)
            draw = draw_ssl(rng, *frames.shape[1:3])
            top, left, h, w = draw.crop
            clip = torch.from_numpy(frames[steps]).movedim(-1, 1)/255
            clip = F.interpolate(clip[..., top:top+h, left:left+w], (self.c.size, self.c.size), mode='bilinear')
            if draw.flip: clip = clip.flip(-1)
            views.append(TF.normalize(torch.stack([pil_frame(f, draw) for f in clip]), IMAGENET_MEAN, IMAGENET_STD))
        return torch.stack(views)

    def __getitem__(self, k: int) -> torch.Tensor: return self.views(self.decode(k), k)


def feed_released(c: Config, paths: list[str]) -> dict:
    "Frames/s that loader workers deliver once they are under way, and where one worker's time goes."
    data, clock = WholeClips(c, paths, (min(c.rounds, 3) + 2)*max(c.workers, c.n_videos)), Clock(torch.device('cpu'))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    with clock('decode'): frames = data.decode(0)
    with clock('pictures'): data.views(frames, 0)
    torch.set_num_threads(threads)
    loader = DataLoader(data, batch_size=1, num_workers=c.workers, multiprocessing_context='spawn', prefetch_factor=1)
    arrived = [time.perf_counter() for _ in loader]
    first = 2*c.workers - 1  # until then the workers were starting
    samples_per_s = (len(arrived) - 1 - first)/(arrived[-1] - arrived[first])
    n_frames = c.n_views*c.feed_T
    return dict(workers=c.workers, T=c.feed_T, frames_per_s=samples_per_s*n_frames, one_worker=dict(clock.seconds, frames=n_frames, decoded=len(frames)))


def feed_ours(c: Config, device: torch.device, videos: list[Video]) -> dict:
    "Frames/s cut and augmented on the device."
    clock, augment = Clock(device), partial(ssl_augment, size=c.size, compile=c.variants[-1][1])
    for k in range(c.rounds + 2):
        if k == 1: clock.seconds.clear()
        with clock(str(k)): sample_batch(videos, c.feed_T, c.n_views, rng_at(c.seed, 'feed', k), augment, device)
    times = quartiles(list(clock.seconds.values()))
    return dict(T=c.feed_T, batch=times, frames_per_s=c.n_videos*c.n_views*c.feed_T/(sum(times['samples'])/len(times['samples'])))


def decode_once(c: Config, device: torch.device, paths: list[str]) -> tuple[list[Video], dict]:
    start = time.perf_counter()
    stored = store_videos([Video(Path(p).stem, VideoFile(p, c.size), action='pouring') for p in paths], device, c.size, desc='')
    seconds, n = time.perf_counter() - start, sum(map(len, stored))
    return stored, dict(frames=n, seconds=seconds, frames_per_s=n/seconds, bytes=sum(v.frames.rows.nbytes for v in stored), on=stored[0].frames.rows.device.type)


def project(rows: list[dict], cached: dict, decode: dict, feed: dict) -> dict:
    "Minutes of a paper-size Pouring run, by way."
    frames, minutes = STEPS*CLIPS*PAPER_T, lambda s: s/60
    return dict(steps=STEPS, frames=frames, decode_once=minutes(POURING_FRAMES/decode['frames_per_s']), fed_as_released=minutes(frames/feed['released']['frames_per_s']),
                fed_as_ours=minutes(frames/feed['ours']['frames_per_s']), cached=minutes(STEPS/cached['steps_per_s']*PAPER_T/cached['T']),
                images={f"{r['precision']}{', compiled' if r['compile'] else ''}": minutes(frames/r['frames_per_s']) for r in rows})


def show(record: dict) -> None:
    for r in record['rows']:
        print(f"{r['precision']}, compile={r['compile']}: {r['frames_per_s']:.1f} frames/s (T={r['T']}), {r['flops_per_s']/1e9:.1f} GFLOP/s: {r['of_gemm']:.0%} of gemm, {r['of_convolution']:.0%} of the best convolution")
        print('   ' + ', '.join(f'{p} {s:.1%}' for p, s in r['shares'].items()), f"(parts {r['parts_total']:.2f} s, whole {r['step']['median']:.2f} s)")
    for name in ('decode', 'cached'): print(name, {k: v for k, v in record[name].items() if isinstance(v, (int, float, str))})
    print('feed', {k: round(v['frames_per_s'], 1) for k, v in record['feed'].items()}, record['feed']['released']['one_worker'])
    print('minutes of a paper-size run:', record['projected'])


def main(c: Config, save: bool) -> None:
    start, device, load = time.perf_counter(), pick_device(c.device), os.getloadavg()[0]  # of the machine in the last minute
    torch.backends.cudnn.benchmark = True
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for k in range(c.n_videos):
            video = PouringVideo(k, c.size, (c.video_frames, c.video_frames))
            paths.append(str(write_video(Path(folder)/f'{k}.mp4', (video[np.array([i])][0] for i in range(len(video))))))
        made = time.perf_counter()
        decode_once(c, device, paths)  # warms up
        stored, decode = decode_once(c, device, paths)
        feed = dict(ours=feed_ours(c, device, stored), released=feed_released(c, paths))
        rows = [image_steps(c, device, stored, *variant) for variant in c.variants]
    vectors = [Video(v.name, rng_at(c.seed, v.name).normal(size=(c.video_frames, c.cached_dim)).astype('float32'), action='pouring') for v in stored]
    cached = steps_of(Training(c, device, store_videos(vectors, device, desc=''), 'float32', None, c.cached_T), c.rounds)
    record = dict(config=asdict(c), versions=versions('lrprop', 'numpy', 'torch', 'torchvision', 'pillow', 'av'), measuring_s=round(time.perf_counter() - made, 1), load_before=load,
                  decode=decode, feed=feed, rows=rows, cached=cached, projected=project(rows, cached, decode, feed))
    show(record)
    if save: write(f'train-{device.type}', record, start)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    parser.add_argument('--small', action='store_true', help='tiny clips, no record')
    args = parser.parse_args()
    config = replace(SMALL, device=args.device) if args.small else GPU if args.device == 'cuda' else Config()
    main(config, save=not args.small)
