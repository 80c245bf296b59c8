"""The contestants, what they are given, and what installs them: `python benchmarks/peers.py` reads peers.txt.

Squared Euclidean distances throughout, since everyone has these.
"""
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common import PEERS, ROOT, first_line


@dataclass(frozen=True)
class Peer:
    "A contestant and the doors it has; None for a door it lacks."
    name: str                                                     # As shown
    package: str                                                  # Distribution it comes from
    soft: Callable[[Tensor, float], Tensor] | None = None         # cost (B,T,T), gamma -> values, or their sum; through autograd
    embs: Callable[[Tensor, Tensor, float], Tensor] | None = None # x, y (B,T,d), gamma -> as above
    path: Callable | None = None                                  # cost (B,T,T), x, y (B,T,d) -> a list of B paths (n,2)
    cuda: bool = False                                            # Has a way of its own on the GPU?
    dense: bool = False                                           # From embeddings, does it build all differences (B,T,T,d)?
    note: str = ''                                                # What a reader of its row should know


def series(
    B: int,                # Pairs
    T: int,                # Frames
    d: int = 128,          # Features
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[Tensor, Tensor]: # (B,T,d) each, of length 1
    "Smooth random walks and the same at another pace with noise: costs in [0, 4], small along a curved way."
    g = torch.Generator().manual_seed(seed)
    walk = torch.randn(B, T, d, generator=g, dtype=torch.float64).cumsum(1)
    pace = torch.linspace(0, 1, T, dtype=torch.float64)**1.3
    y = walk[:, (pace*(T - 1)).round().long()] + .3*torch.randn(B, T, d, generator=g, dtype=torch.float64)
    return tuple(F.normalize(v, dim=-1).to(dtype).contiguous() for v in (walk, y))


def step(
    door: Callable, # A door of a `Peer`, gamma bound or not needed
    *leaves: Tensor,
) -> Callable: # A call that returns the sum of the values and leaves the gradients in the leaves
    "Value and gradients as a training step asks for them."
    def run():
        for v in leaves: v.grad = None
        loss = door(*leaves).sum()
        loss.backward()
        return loss.detach()
    return run


# ---- ours
def ours_soft(cost, gamma):
    from lrprop.softdtw import soft_dtw
    return soft_dtw(cost, gamma)


def ours_embs(x, y, gamma, kind='sqeuclidean'):
    from lrprop.softdtw import soft_dtw_from_embs
    return soft_dtw_from_embs(x, y, gamma, kind)


def ours_path(cost, x, y):
    from lrprop.dtw import dtw_path
    return dtw_path(cost)[1]


# ---- soft-DTW: a module that wants embeddings gets the cost twice and a distance that hands it through
def _given(x, y): return x


@lru_cache(None)
def _tslearn(gamma, dist):
    from tslearn.metrics import SoftDTWLossPyTorch
    return SoftDTWLossPyTorch(gamma=gamma, dist_func=dist)


@lru_cache(None)
def _pysdtw(gamma, dist, cuda):
    from pysdtw import SoftDTW
    return SoftDTW(gamma=gamma, dist_func=dist, use_cuda=cuda)


@lru_cache(None)
def _maghoumi(gamma, dist, cuda):
    from dtw_loss_functions.soft_dtw_implementations.soft_dtw_cuda_mag import SoftDTW
    return SoftDTW(cuda, gamma=gamma, dist_func=dist)


@lru_cache(None)
def _ddtw(gamma, dtype, cuda):
    from ddtw import SDTW
    return SDTW(gamma=gamma, normalization='none', dtype_float=dtype, backend='cuda_cpp' if cuda else 'cpu_numba')


def tslearn_soft(cost, gamma): return _tslearn(gamma, _given)(cost, cost)
def tslearn_embs(x, y, gamma): return _tslearn(gamma, None)(x, y)
def pysdtw_soft(cost, gamma): return _pysdtw(gamma, _given, cost.is_cuda)(cost, cost)
def pysdtw_embs(x, y, gamma): return _pysdtw(gamma, None, x.is_cuda)(x, y)
def ddtw_soft(cost, gamma): return len(cost)*_ddtw(gamma, cost.dtype, cost.is_cuda)(C=cost)
def ddtw_embs(x, y, gamma): return len(x)*_ddtw(gamma, x.dtype, x.is_cuda)(x, y)
def maghoumi_embs(x, y, gamma): return _maghoumi(gamma, None, x.is_cuda)(x, y)


def maghoumi_soft(cost, gamma):
    if cost.is_cuda and max(cost.shape[1:]) > 1024: raise ValueError('longer than 1,024: falls back to the CPU')
    return _maghoumi(gamma, _given, cost.is_cuda)(cost, cost)


def sdtw_cuda_torch_soft(cost, gamma):
    from dtw_loss_functions.soft_dtw_implementations.soft_dtw_cuda_ron.autograd import SoftDTWAutograd
    return SoftDTWAutograd.apply(cost, gamma, None)


def sdtw_cuda_torch_embs(x, y, gamma):
    from dtw_loss_functions.soft_dtw_implementations.soft_dtw_cuda_ron.functional import softdtw
    return softdtw(x, y, gamma=gamma)


class _Flash(torch.autograd.Function):
    "flash-softdtw from a cost: its kernels want the anti-diagonals one after another."
    @staticmethod
    def forward(ctx, cost, gamma):
        from flash_softdtw.convert import square_to_antidiag
        from flash_softdtw.softdtw import softdtw_forward
        B, N, M = cost.shape
        D = square_to_antidiag(cost.detach().reshape(-1), [N]*B, M)
        value, R = softdtw_forward([N]*B, M, D, gamma=gamma)
        ctx.save_for_backward(D, R)
        ctx.shape, ctx.gamma = (B, N, M), gamma
        return value

    @staticmethod
    def backward(ctx, grad):
        from flash_softdtw.convert import antidiag_to_square
        from flash_softdtw.softdtw import softdtw_backward
        B, N, M = ctx.shape
        E = softdtw_backward([N]*B, M, *ctx.saved_tensors, gamma=ctx.gamma)
        return grad[:, None, None]*antidiag_to_square(E, [N]*B, M).view(B, N, M), None


def flash_soft(cost, gamma): return _Flash.apply(cost, gamma)


def diagonals_soft(cost, gamma):
    "The recursion in plain torch, an anti-diagonal a step, autograd left to itself: what one writes without a compiler."
    B, N, M = cost.shape
    big = 1e9                                                                       # not inf, whose gradient is NaN
    D = F.pad(cost, (0, N), value=big).flatten(1)[:, :N*(M + N - 1)].view(B, N, -1) # row i moved right by i
    edge = D.new_full((B, 1), big)
    last = before = D.new_full((B, N + 1), big)                                     # entry 0 is the border
    before = torch.cat([torch.zeros_like(edge), before[:, 1:]], 1)
    for d in D.unbind(2):
        r = d - gamma*torch.logsumexp(torch.stack([before[:, :-1], last[:, :-1], last[:, 1:]])/-gamma, 0)
        before, last = last, torch.cat([edge, r], 1)
    return last[:, -1]


# ---- exact DTW with path, pair by pair as these libraries do it
def _each(one: Callable) -> Callable:
    "A door for a batch from a function of one cost."
    return lambda cost, x, y: [one(c) for c in cost]


def _each_series(one: Callable) -> Callable:
    "A door for a batch from a function of two series."
    return lambda cost, x, y: [one(a.numpy(), b.numpy()) for a, b in zip(x, y)]


def tslearn_path(c):
    from tslearn.metrics import dtw_path_from_metric
    return dtw_path_from_metric(c.numpy(), metric='precomputed')[0]


def torchdtw_path(c):
    from torchdtw import dtw_path
    return dtw_path(c)


def whisper_path(c):
    from whisper.timing import dtw
    return dtw(c).T


def librosa_path(c):
    from librosa.sequence import dtw
    return dtw(C=c.numpy())[1][::-1]


def dtw_python_path(c):
    from dtw import dtw
    found = dtw(c.numpy(), step_pattern='symmetric1')
    return np.stack([found.index1, found.index2], 1)


def dtwalign_path(c):
    from dtwalign import dtw_from_distance_matrix
    return dtw_from_distance_matrix(c.double().numpy(), step_pattern='symmetric1').path


def dtaidistance_path(x, y):
    from dtaidistance.dtw_ndim import warping_path
    return warping_path(x.astype(np.float64), y.astype(np.float64), use_c=True)


def aeon_path(x, y):
    from aeon.distances import dtw_alignment_path
    return dtw_alignment_path(x.T, y.T)[0]


CARRIED = 'dtw-loss-functions'
ROUNDS = 'rounds to float32 between the passes, also for float64'
SERIES = 'from the series, so its time holds the distances (d=128) too'
CONTESTANTS = (
    Peer('lrprop', 'lrprop', ours_soft, ours_embs, ours_path, cuda=True),
    Peer('tslearn', 'tslearn', tslearn_soft, tslearn_embs, _each(tslearn_path), dense=True, note=f'{ROUNDS}; DTW sums in float64'),
    Peer('pysdtw', 'pysdtw', pysdtw_soft, pysdtw_embs, cuda=True, note=f'computes in float64, {ROUNDS}'),
    Peer('sdtw-cuda-torch', CARRIED, sdtw_cuda_torch_soft, sdtw_cuda_torch_embs, cuda=True, note=f'as carried by {CARRIED}'),
    Peer('Maghoumi', CARRIED, maghoumi_soft, maghoumi_embs, cuda=True, dense=True, note=f'as carried by {CARRIED}; computes in float64, {ROUNDS}'),
    Peer('ddtw', 'ddtw', ddtw_soft, ddtw_embs, cuda=True, dense=True, note='on CUDA it compiles itself with nvcc'),
    Peer('flash-softdtw', 'flash-softdtw', flash_soft, cuda=True, note='CUDA and float32 only; from a cost, so with its conversions'),
    Peer('torch diagonals', 'torch', diagonals_soft, cuda=True, note='ours, plain torch under autograd'),
    Peer('torchdtw', 'torchdtw', path=_each(torchdtw_path), cuda=True, note="sums in the cost's dtype; finds the path on the CPU, also of a cost on the GPU"),
    Peer('whisper', 'openai-whisper', path=_each(whisper_path), cuda=True, note='sums in float32'),
    Peer('librosa', 'librosa', path=_each(librosa_path), note='sums in float64'),
    Peer('dtw-python', 'dtw-python', path=_each(dtw_python_path), note='sums in float64'),
    Peer('dtwalign', 'dtwalign', path=_each(dtwalign_path), note='takes and sums in float64 only'),
    Peer('dtaidistance', 'dtaidistance', path=_each_series(dtaidistance_path), note=f'{SERIES}; sums in float64'),
    Peer('aeon', 'aeon', path=_each_series(aeon_path), note=f'{SERIES}; sums in float64'),
)


def install() -> dict[str, str]: # Requirement -> reason, for those that failed
    "Install every line of peers.txt into .bench/ by itself, without dependencies, so that one failure stops nobody."
    text = (ROOT/'benchmarks'/'peers.txt').read_text(encoding='utf-8')
    done = PEERS/'peers.json'
    if done.exists() and (state := json.loads(done.read_text()))['list'] == [text, sys.version]: return state['failed']
    shutil.rmtree(PEERS, ignore_errors=True)
    PEERS.mkdir()
    failed = {}
    for line in filter(None, (line.split('#')[0].strip() for line in text.splitlines())):
        command = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--disable-pip-version-check', '--target', str(PEERS), *shlex.split(line)]
        done_pip = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        if done_pip.returncode == 0: continue
        errors = [e for e in done_pip.stderr.splitlines() if 'error' in e.lower()] or ['pip failed']
        failed[line.split()[0]] = first_line(errors[-1]).removeprefix('ERROR: ')
        print('not installed:', line, '|', failed[line.split()[0]])
    done.write_text(json.dumps(dict(list=[text, sys.version], failed=failed)))
    if str(PEERS) not in sys.path: sys.path.append(str(PEERS))
    return failed


def why_absent(peer: Peer, door: str, device: str = 'cpu') -> str | None:
    "Why a contestant has no part in a comparison on this device; None if it has."
    if getattr(peer, door) is None: return 'has no such function'
    if device == 'cuda' and not peer.cuda: return 'has no CUDA version'
    if device == 'cpu' and peer.name == 'flash-softdtw': return 'CUDA only'
    return None


if __name__ == '__main__': install()
