"""What it costs to be restartable and deterministic: a step in either mode, a checkpoint beside it.

python benchmarks/restart.py            # under a minute; writes results/benchmarks/restart-cpu.json, or -gpu.json where there is one
python benchmarks/restart.py --small    # a small encoder and short clips, to try it; writes nothing

A step is one of LRProp on features of the built-in backbone's width, with the paper's encoder: sampling, forward, backward, Adam.
"""
from common import interleaved, versions, write  # first: it sets the number of threads

# isort: split
import sys
import tempfile
import time
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import torch

from lrprop.checkpoint import deterministic, load_checkpoint, save_checkpoint, save_encoder
from lrprop.core import Video, rng_at, seed_torch_at
from lrprop.encoder import Encoder
from lrprop.losses.lrprop import lrprop
from lrprop.trainer import fit

SIZES = {'small': dict(in_dim=64, n_frames=20, depth=2, video=60), 'paper': dict(in_dim=1280, n_frames=80, depth=7, video=200)}
N_STEPS = 4 # of a turn


def main() -> None:
    start, small = time.perf_counter(), '--small' in sys.argv
    size = SIZES['small' if small else 'paper']
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    videos = [Video(f'v{i}', rng_at(i).normal(size=(size['video'], size['in_dim'])).astype('float32')) for i in range(2*N_STEPS)]
    seed_torch_at(0, 'weights')
    encoder, folder = Encoder(size['in_dim'], size['n_frames'], size['depth']).to(device), Path(tempfile.mkdtemp())
    def epoch(fixed):
        with deterministic(fixed), redirect_stderr(StringIO()): fit(encoder, lrprop, videos, size['n_frames'], n_epochs=1)
    times = interleaved({'default': lambda: epoch(False), 'deterministic': lambda: epoch(True)}, rounds=3 if small else 15, turn_s=0, cap_s=60)
    with redirect_stderr(StringIO()): fit(encoder, lrprop, videos, size['n_frames'], n_epochs=1, checkpoint=folder/'run.pt', config={})
    state = load_checkpoint(folder/'run.pt', device=device)
    files = interleaved({'save': lambda: save_checkpoint(folder/'run.pt', state), 'load': lambda: load_checkpoint(folder/'run.pt', device=device),
                         'save_encoder': lambda: save_encoder(folder/'run.safetensors', encoder)}, rounds=3 if small else 9, turn_s=0, cap_s=30)
    bytes_ = {kind: (folder/f'run.{kind}').stat().st_size for kind in ('pt', 'safetensors')}
    for name, t in times.items(): print(f'{name:14} {1e3*t["median"]/N_STEPS:7.1f} ms a step')
    for name, t in files.items(): print(f'{name:14} {1e3*t["median"]:7.1f} ms')
    print(f'deterministic / default {times["deterministic"]["median"]/times["default"]["median"]:.3f}, checkpoint {bytes_["pt"]/1e6:.1f} MB, encoder {bytes_["safetensors"]/1e6:.1f} MB')
    record = dict(versions=versions('torch', 'numpy', 'safetensors'), size=size, n_steps=N_STEPS, epochs=times, files=files, bytes=bytes_)
    if not small: write(f'restart-{"gpu" if device.type == "cuda" else "cpu"}', record, start)


if __name__ == '__main__': main()
