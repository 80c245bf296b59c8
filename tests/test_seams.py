"""Exactness over the seams: two ways to one result, and what they may differ by."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lrprop.backbone import extract_features, load_backbone
from lrprop.cache import cache_videos, cached_features
from lrprop.checkpoint import load_encoder
from lrprop.core import Video, rng_at, seed_torch_at
from lrprop.dtw import cost_matrix, dtw_path
from lrprop.encoder import Encoder, embed_frames, embed_long
from lrprop.losses.lrprop import lrprop
from lrprop.metrics import alignment_error, average_precision, dtw_accuracy, kendalls_tau, phase_classification, phase_progression
from lrprop.softdtw import expected_alignment, soft_dtw, soft_dtw_from_embs
from test_distributed import train

ROUNDING = 2e-6  # float32 holds 1 to 6e-8; sums of a few hundred terms
GAMMAS = 1e-4, .01, .1, 1., 100.


@pytest.fixture(autouse=True)
def one_thread():
    "How a sum is shared among threads changes its last bits."
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def walk(seed, *shape): return rng_at(seed, 'seam').normal(size=shape).cumsum(-2).astype('float32')
def relative(a, b): return (torch.as_tensor(a).double() - torch.as_tensor(b).double()).abs().max().item()/max(1., torch.as_tensor(b).abs().max().item())


def test_same_seed_same_bytes(tmp_path):
    "Two fresh processes, whatever order their sets have."
    program = 'import sys, torch; from test_distributed import train; torch.set_num_threads(1); train(sys.argv[1], n_epochs=2, dtype=torch.float32)'
    for name in ('a', 'b'):
        environment = os.environ | dict(PYTHONPATH=os.pathsep.join((str(Path(__file__).parent), os.environ.get('PYTHONPATH', ''))), PYTHONHASHSEED=str(ord(name)))
        subprocess.run([sys.executable, '-c', program, tmp_path/f'{name}.pt'], check=True, timeout=300, env=environment)
    weights = [(tmp_path/f'{name}.safetensors').read_bytes() for name in ('a', 'b')]
    assert weights[0] == weights[1]
    train(tmp_path/'c.pt', n_epochs=2, dtype=torch.float32, seed=1)
    assert (tmp_path/'c.safetensors').read_bytes() != weights[0]


@pytest.fixture(scope='module')
def backbone(): return load_backbone('efficientnet_lite0_grid', size=64)


@pytest.fixture(scope='module')
def clips(): return [Video(f'{i}', rng_at(i, 'frames').integers(0, 256, (7 + i, 48, 64, 3), dtype='uint8')) for i in range(4)]


def test_cached_features_are_those_computed_now(backbone, clips, tmp_path):
    "To the bit, whether just computed, read back, or filled by two processes."
    live = [extract_features(clip.frames, backbone) for clip in clips]
    first, again = ([cached_features(clip, backbone, tmp_path/'one').frames for clip in clips] for _ in range(2))
    two, _ = cache_videos(clips, backbone, 2, cache_dir=tmp_path/'two')
    for frames in (first, again, [v.frames for v in two]): assert all(np.array_equal(a, b) for a, b in zip(frames, live, strict=True))


def test_batches_of_frames(backbone, clips):
    whole = extract_features(clips[3].frames, backbone, batch_size=16)
    for n in (1, 3, 10): assert relative(extract_features(clips[3].frames, backbone, batch_size=n), whole) < ROUNDING


def encoder(dtype=torch.float32):
    seed_torch_at(0, 'weights')
    return Encoder(in_dim=6, n_frames=16, depth=2, hidden_dim=32, dim=32, emb_dim=16).to(dtype).eval()


def test_pieces_of_a_long_video():
    "One window that holds all is `embed_frames`; how many frames are fetched at a time changes nothing but rounding."
    model, frames = encoder(), walk(0, 101, 6)
    whole = embed_frames(model, torch.from_numpy(frames))
    assert relative(embed_long(model, frames, 200), whole) < ROUNDING
    windows = embed_long(model, frames, 40)
    for fetch in (1, 7, 40): assert relative(embed_long(model, frames, 40, fetch=fetch), windows) < ROUNDING


def test_an_encoder_saved_and_loaded_is_the_same(tmp_path):
    train(tmp_path/'run.pt', n_epochs=1, dtype=torch.float32)
    checkpoint, frames = torch.load(tmp_path/'run.pt', weights_only=True), torch.from_numpy(walk(0, 30, 4))
    loaded = load_encoder(tmp_path/'run.safetensors')
    kept = Encoder(**loaded.config).eval()
    kept.load_state_dict(checkpoint['encoder'])
    assert torch.equal(embed_frames(loaded, frames), embed_frames(kept, frames))


TRITON = '''
import sys, numpy as np, torch
from lrprop.dtw_gpu import exact_gpu
from lrprop.kernels_gpu import soft_gpu
given, out = np.load(sys.argv[1]), {}
n = torch.from_numpy(given['n'])
for dtype in ('float32', 'float64'):
    cost = torch.from_numpy(given['cost'].astype(dtype))
    value, path, n_path = exact_gpu(cost, n)
    out |= {f'{dtype} path': path.numpy(), f'{dtype} n': n_path.numpy(), f'{dtype} dtw': value.numpy()}
    for gamma in given['gammas']:
        value, E = soft_gpu(cost, float(gamma), n)
        out |= {f'{dtype} {gamma} value': value.numpy(), f'{dtype} {gamma} E': E.numpy()}
np.savez(sys.argv[2], **out)
'''


def torch_soft_dtw(D, gamma):
    "The recursion in torch alone, cell by cell; its gradient is torch's."
    r = [[torch.tensor(torch.inf, dtype=D.dtype)]*(D.shape[1] + 1) for _ in range(len(D) + 1)]
    r[0][0] = D.new_zeros(())
    for i in range(len(D)):
        for j in range(D.shape[1]):
            r[i + 1][j + 1] = D[i, j] - gamma*torch.logsumexp(-torch.stack([r[i][j], r[i][j + 1], r[i + 1][j]])/gamma, 0)
    return r[-1][-1]


def test_numba_torch_and_triton_agree(tmp_path):
    "Triton in its interpreter. Paths are equal; values and gradients within the rounding of the type, for any γ."
    costs = np.stack([cost_matrix(walk(s, 13, 3), walk(s + 9, 11, 3)).double().numpy() for s in range(3)])
    n = np.array([[13, 11], [9, 11], [5, 2]])
    np.savez(tmp_path/'given.npz', cost=costs, n=n, gammas=GAMMAS)
    subprocess.run([sys.executable, '-c', TRITON, tmp_path/'given.npz', tmp_path/'triton.npz'], check=True, timeout=600, env=os.environ | dict(TRITON_INTERPRET='1'))
    triton = np.load(tmp_path/'triton.npz')
    for dtype, tol in ((torch.float64, 1e-12), (torch.float32, ROUNDING)):
        name, cost = str(dtype)[6:], torch.from_numpy(costs).to(dtype)
        values, paths = dtw_path(cost, n)
        assert relative(triton[f'{name} dtw'], values) < tol
        for path, whole, m in zip(paths, triton[f'{name} path'], triton[f'{name} n'], strict=True): assert np.array_equal(path, whole[len(whole) - m:])
        for gamma in GAMMAS:
            numba, E = soft_dtw(cost, gamma, n), expected_alignment(cost, gamma, n)
            assert relative(triton[f'{name} {gamma} value'], numba) < tol
            assert relative(triton[f'{name} {gamma} E'], E) < tol
            for b, (n_x, n_y) in enumerate(n):
                D = cost[b, :n_x, :n_y].double().requires_grad_()
                plain = torch_soft_dtw(D, gamma)
                plain.backward()
                assert relative(numba[b], plain.detach()) < tol
                assert relative(E[b, :n_x, :n_y], D.grad) < tol


def test_single_precision_is_double_precision_rounded():
    x, y = (torch.from_numpy(walk(s, 60, 5)) for s in (1, 2))
    for kind in ('euclidean', 'sqeuclidean', 'cosine'):
        assert relative(cost_matrix(x, y, kind), cost_matrix(x.double(), y.double(), kind)) < ROUNDING
        for gamma in GAMMAS: assert relative(soft_dtw_from_embs(x, y, gamma, kind), soft_dtw_from_embs(x.double(), y.double(), gamma, kind)) < ROUNDING
    frames = torch.from_numpy(walk(3, 40, 6))
    assert relative(embed_frames(encoder(), frames), embed_frames(encoder(torch.float64), frames.double())) < 10*ROUNDING
    z = torch.nn.functional.normalize(torch.from_numpy(walk(4, 2, 2, 30, 8)), dim=-1)
    steps, mask = torch.arange(30).expand(2, 2, 30)*2, torch.ones(2, 2, 30, dtype=torch.bool)
    losses, slopes = [], []
    for dtype in (torch.float32, torch.float64):
        v = z.to(dtype).clone().requires_grad_()
        losses.append(lrprop(v, steps, torch.tensor([60, 60]), mask, .5, .5))
        losses[-1].backward()
        slopes.append(v.grad)
    assert relative(losses[0].detach(), losses[1].detach()) < ROUNDING and relative(*slopes) < 10*ROUNDING


def test_scores_do_not_know_the_precision():
    "They are computed in double precision: the same numbers, given in either, have one score."
    labels = [np.repeat([0, 1, 2], n) for n in (5, 6, 7, 8)]
    pace = [np.arange(len(l))/len(l) for l in labels]
    embs = [(p[:, None] + walk(i, len(l), 4)/50).astype('float32') for i, (l, p) in enumerate(zip(labels, pace))]
    def scores(embs):
        yield from (kendalls_tau(embs), average_precision(embs, labels, 3), dtw_accuracy(embs, labels), alignment_error(embs, pace))
        yield from (phase_progression(embs[2:], labels[2:], embs[:2], labels[:2]), *(phase_classification(embs[2:], labels[2:], embs[:2], labels[:2], classifier=c) for c in ('svm', 'linear')))
    assert [*scores(embs)] == [*scores([e.astype('float64') for e in embs])]
