"""Hostile numbers: every public function of the numerical modules is right (beside slow plain NumPy, or by an invariant), or refuses with a `ValueError` that names the bad value."""
import re
import warnings
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import pairwise, product
from math import inf, isnan, nan
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from lrprop import align, augment, core, dtw, idm, long, metrics, neighbours, phases, priors, propagation, sampling, side_by_side, softdtw
from lrprop import partial as partial_
from lrprop.core import Video, rng_at
from lrprop.losses import gta, lav, lrprop, sal, scl, tcc, tcn, vava

settings.register_profile('stable', derandomize=True, deadline=None, max_examples=20, database=None, suppress_health_check=list(HealthCheck))
settings.load_profile('stable')
MODULES = ('core', 'phases', 'sampling', 'augment', 'dtw', 'softdtw', 'partial', 'long', 'priors', 'propagation', 'idm', 'neighbours', 'metrics', 'align', 'side_by_side', *(f'losses.{m}' for m in ('sal', 'tcn', 'tcc', 'lav', 'vava', 'scl', 'lrprop', 'gta')))
COVERED = set()
SEED, SIZE, KIND = st.integers(0, 2**32), st.integers(1, 9), st.sampled_from(('euclidean', 'sqeuclidean', 'cosine'))
GAMMA = st.floats(-6, 3).map(lambda p: 10**p)
LENGTH = st.one_of(st.integers(1, 30), st.integers(1, 5000))


def of(module, *names):
    "Which public names a test is about."
    COVERED.update((module, n) for n in names)
    return lambda test: test


def normal(seed, *shape, scale=1.): return rng_at(seed, 'hostile').normal(size=shape)*scale
def tensor(*arguments, **more): return torch.from_numpy(normal(*arguments, **more))


def refuses(call, value):
    "A `ValueError` that names the value."
    with pytest.raises(ValueError, match=re.escape(str(value))): call()


# Slow and plain
def slow_cost(x, y, kind):
    D = np.zeros((len(x), len(y)))
    for i, j in product(range(len(x)), range(len(y))):
        if kind == 'cosine': D[i, j] = 1 - x[i] @ y[j]/max(np.linalg.norm(x[i])*np.linalg.norm(y[j]), 1e-300)
        else: D[i, j] = np.sum((x[i] - y[j])**2)**(1 if kind == 'sqeuclidean' else .5)
    return D


def slow_dtw(D, gamma=0., open_begin=False, open_end=False, table=False):
    "DTW for gamma 0, else soft-DTW; as the recursion is written in the paper (eq. 6)."
    n, m = D.shape
    r = np.full((n + 1, m + 1), inf)
    for i, j in product(range(n), range(m)):
        start = 0 if i == 0 and (j == 0 or open_begin) else inf
        three = np.array([min(r[i, j], start), r[i, j + 1], r[i + 1, j]])
        low = three.min()
        r[i + 1, j + 1] = D[i, j] + (low if gamma == 0 or low == inf else low - gamma*np.log(np.exp(-(three - low)/gamma).sum()))
    if table: return r[1:, 1:]
    last = r[-1, 1:] if open_end else r[-1, -1:]
    low = last.min()
    return low if gamma == 0 or low == inf else low - gamma*np.log(np.exp(-(last - low)/gamma).sum())


def check_path(path, D, open_begin=False, open_end=False):
    assert (path[0, 0], path[-1, 0]) == (0, len(D) - 1) and (open_begin or path[0, 1] == 0) and (open_end or path[-1, 1] == D.shape[1] - 1)
    steps = np.diff(path, axis=0)
    assert ((steps >= 0) & (steps <= 1)).all() and (steps.sum(1) > 0).all()
    return D[tuple(path.T)].sum()


# core
@of('core', 'FrameSource', 'content_hash')
@given(SEED, st.sampled_from(('f4', 'f8', 'u1', 'i8', '>f4')), st.integers(0, 4), st.integers(0, 3))
def test_content_hash_is_of_the_content(seed, dtype, n, d):
    x = (normal(seed, n, d)*9).astype('i2').astype(dtype)
    assert isinstance(x, core.FrameSource)
    assert core.content_hash(x) == core.content_hash(np.asfortranarray(x)) == core.content_hash(x.copy())
    others = [x[:, None], x.astype('f2'), *([x + 1] if x.size else [])]
    assert all(core.content_hash(o) != core.content_hash(x) for o in others)
    refuses(lambda: core.content_hash(x.astype(object)), 'objects')


@of('core', 'Video')
@given(st.lists(st.sampled_from((-1, 0, 1, 2.5, nan, inf)), max_size=4), st.sampled_from((25, 29.97, 0, -1, nan, inf)), st.sampled_from(('train', 'val', '', 'test')))
def test_a_video_holds_together(clock, fps, split):
    try: v = Video('clip', np.zeros((3, 2)), progress=np.array(clock), split=split, fps=fps)
    except ValueError as e: assert 'clip: ' in str(e)
    else: assert len(clock) == 3 and np.isfinite(clock).all() and clock == sorted(clock) and 0 < fps < inf and split in ('train', 'val') and v.n_frames == 3


@of('core', 'rng_at', 'seed_torch_at')
@given(st.lists(st.one_of(st.integers(-2**63, 2**63 - 1), st.text(max_size=5)), min_size=1, max_size=3), st.floats())
def test_addresses(address, number):
    first = rng_at(*address).random()
    assert first == rng_at(*(np.int64(a) if isinstance(a, int) else a for a in address)).random() != rng_at(*address, 0).random()
    core.seed_torch_at(*address)
    drawn = torch.rand(2)
    core.seed_torch_at(*address)
    assert torch.equal(drawn, torch.rand(2))
    if number % 1 != 0: refuses(lambda: rng_at(*address, number), number)
    else: assert rng_at(number).random() == rng_at(int(number)).random()


@of('core', 'pick_device', 'check_choice')
@given(st.one_of(st.text(max_size=8), st.sampled_from(('auto', 'cpu', 'meta', 'cuda:99', 'cpu:7', 'mkldnn'))))
def test_devices_and_choices(name):
    try: assert (torch.zeros(2, device=core.pick_device(name)) + 1).sum() == 2
    except ValueError as e: assert repr(name) in str(e) and 'cpu' in str(e)
    if name in ('auto', 'cpu'): assert core.check_choice('device', name, ('auto', 'cpu')) == name
    else: refuses(lambda: core.check_choice('device', name, ('auto', 'cpu')), repr(name))


@of('core', 'check_count')
@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=3), st.none()), st.integers(-3, 3))
def test_only_whole_numbers_count(value, least):
    if type(value) is int and value >= least: assert core.check_count('k', value, least) == value == core.check_count('k', np.int64(value) if abs(value) < 2**63 else value, least)
    else: refuses(lambda: core.check_count('k', value, least), repr(value))


@of('core', 'evenly')
@given(st.integers(0, 10**6), st.integers(-2, 300))
def test_evenly(n, count):
    if count < 1: refuses(lambda: core.evenly(n, count), f'count is {count}')
    else:
        k = core.evenly(n, count)
        assert len(k) == min(n, count) and (np.diff(k) > 0).all() and k[:1].tolist() == [0]*(n > 0)
        if len(k) > 1: assert k[-1] == n - 1 and np.ptp(np.diff(k)) <= 1


@of('core', 'is_file')
@given(st.one_of(st.text(max_size=20), st.integers(1, 10**5).map('a'.__mul__), st.sampled_from(('', '.', '/', 'there', 'there/new', 'folder'))))
def test_what_was_typed_is_a_file_or_not(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    (folder/'there').write_text('mine')
    assert core.is_file(folder/'there') and core.is_file(f'{folder}/{text}') == (text == 'there')


@of('core', 'check_new')
@given(st.sampled_from(('', '/', '.', '..', 'new', 'there', 'there/new', 'none/new', 'folder', 'folder/new')))
def test_nothing_is_overwritten(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp()
    (folder/'there').write_text('mine')
    (folder/'folder').mkdir(exist_ok=True)
    path = folder/name
    if name in ('new', 'folder/new'): assert core.check_new(path, path) is None
    else:
        with pytest.raises((FileExistsError, FileNotFoundError), match=re.escape(f'{path}: ')): core.check_new(folder/'new', path)


@of('core', 'NO_SPACE')
@pytest.mark.parametrize('number', core.NO_SPACE)
def test_a_full_disk_is_told(tmp_path, number):
    def library():
        try: raise OSError(number, 'no room')
        except OSError: raise ValueError('saying nothing of it') from None
    with pytest.raises(OSError, match=re.escape(str(tmp_path/'file'))) as caught, core.replacing(tmp_path/'file'): library()
    assert caught.value.errno == number and not list(tmp_path.iterdir())


@of('core', 'replacing', 'is_left_over')
@given(st.binary(max_size=9), st.booleans())
def test_a_file_is_whole_or_untouched(tmp_path_factory, data, fails):
    path = tmp_path_factory.getbasetemp()/'whole.bin'
    path.write_bytes(b'before')
    try:
        with core.replacing(path) as temporary:
            temporary.write_bytes(data)
            assert core.is_left_over(temporary, {'whole'}, ('.bin',)) and not core.is_left_over(temporary, {'other'}, ('.bin',)) and not core.is_left_over(path, {'whole'}, ('.bin',))
            if fails: raise KeyError
    except KeyError: pass
    assert path.read_bytes() == (b'before' if fails else data) and [p.name for p in path.parent.glob('*.bin')] == ['whole.bin'] and not list(path.parent.glob('.whole*'))


@of('core', 'Batch')
@of('sampling', 'sample_batch', 'to_device', 'Augment')
@given(SEED, st.integers(2, 9), st.integers(1, 3), st.integers(1, 3), st.sampled_from(tuple(sampling.SAMPLERS)))
def test_a_batch_is_what_its_steps_say(seed, n_frames, n_videos, n_views, sampler):
    videos = [Video(f'v{i}', normal(seed + i, 3 + 5*i, 2).astype('f4')) for i in range(n_videos)]
    batch = sampling.sample_batch(videos, n_frames, n_views, rng_at(seed), sampler=sampler)
    assert isinstance(batch, core.Batch) and batch.mask.shape[:2] == (n_videos, n_views) and batch.seq_lens.tolist() == [len(v) for v in videos]
    for v, video in enumerate(videos): assert np.array_equal(batch.frames[v], video.frames[batch.steps[v].numpy()])
    for v, k in ((0, n_views), (n_videos, 0)): refuses(lambda: sampling.sample_batch(videos[:v], n_frames, k, rng_at(seed)), f'{v} of {v} videos × {k}')
    x = torch.arange(3)
    assert sampling.to_device(x, 'cpu') is x


# phases
@of('phases', 'canonical_action', 'KEY_EVENTS', 'ACTIONS', 'N_PHASES', 'PHASE_NAMES')
@given(st.one_of(st.text(max_size=12), st.sampled_from(tuple(phases.KEY_EVENTS)).map(lambda a: f' {a.replace("_", "-").upper()} ')))
def test_actions(name):
    try: action = phases.canonical_action(name)
    except ValueError as e: assert repr(name) in str(e)
    else: assert len(phases.PHASE_NAMES[action]) == phases.N_PHASES[action] == len(phases.KEY_EVENTS[action]) + 1 and (action in phases.ACTIONS) == (action != 'pouring')


@of('phases', 'phase_runs')
@given(SEED, st.integers(1, 30))
def test_phase_runs(seed, n):
    labels = np.sort(rng_at(seed, 'phases').integers(0, 4, n))
    assert phases.phase_runs(Video('clip', np.zeros((n, 1)), labels)).tolist() == [t for t in range(n) if t == 0 or labels[t] != labels[t - 1]]
    refuses(lambda: phases.phase_runs(Video('clip', np.zeros((n, 1)))), 'clip has no phases')


NAME = st.text(st.characters(exclude_categories=('Cc', 'Cs'), exclude_characters='/\\'), max_size=6)


@of('phases', 'write_phases_template', 'PhaseRow', 'MAX_FRAMES')
@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), max_size=3), NAME)
def test_phases_come_back_as_they_were(tmp_path_factory, steps, name):
    path = tmp_path_factory.getbasetemp()/'template.csv'
    path.unlink(missing_ok=True)
    videos = [Video(f'{i}{name}.', np.zeros((len(s) + 1, 2)), np.cumsum([0, *s]), f'action {i}') for i, s in enumerate(steps)]
    rows = phases.read_phases(phases.write_phases_template(videos, path))
    assert list(rows) == [v.name for v in videos]
    for v, row in zip(videos, rows.values()): assert isinstance(row, phases.PhaseRow) and np.array_equal(row.phases, v.phases) and row.n_frames == len(v) <= phases.MAX_FRAMES


@of('phases', 'write_phases_template')
@given(st.lists(st.integers(-1, 4), min_size=2, max_size=6).filter(lambda p: p[0] != 0 or any(b - a not in (0, 1) for a, b in pairwise(p))),
       st.one_of(st.tuples(NAME, st.sampled_from('/\\'), NAME).map(''.join), st.sampled_from(('', '.')), NAME.map('.{}'.format), NAME.map(' {}'.format), NAME.map('{}\u3000'.format)))
def test_phases_that_would_not_come_back_are_refused(tmp_path_factory, labels, name):
    path = tmp_path_factory.getbasetemp()/'refused.csv'
    refuses(lambda: phases.write_phases_template([Video('clip', np.zeros((len(labels), 2)), np.array(labels))], path), 'clip: phases [')
    refuses(lambda: phases.write_phases_template([Video(name, np.zeros((4, 2)))], path), 'refused.csv')
    assert not path.exists()


CELL = st.one_of(st.text(max_size=4), st.integers(-3, 12).map(str), st.sampled_from(('train', 'val', '0 3', '0 3 5', '1_0', '٣', '1e3', '9'*30, '"', '\0', '\r', ',', '\n')))


@of('phases', 'read_phases')
@given(st.one_of(st.binary(max_size=60), st.lists(st.lists(CELL, max_size=7), max_size=4)))
def test_a_table_is_read_right_or_refused(tmp_path_factory, table):
    path = tmp_path_factory.getbasetemp()/'table.csv'
    head = 'video,action,split,n_frames,phase_starts\n'
    path.write_bytes(table if isinstance(table, bytes) else (head + '\n'.join(map(','.join, table))).encode('utf-8', 'surrogatepass'))
    try: rows = phases.read_phases(path)
    except ValueError as e: assert str(path) in str(e)
    else:
        for row in rows.values():
            assert row.video and 2 <= row.n_frames <= phases.MAX_FRAMES and row.split in ('train', 'val') and (not row.starts or (row.starts[0] == 0 and list(row.starts) == sorted(set(row.starts))))
            if row.starts: assert [int(np.argmax(row.phases == p)) for p in range(len(row.starts))] == list(row.starts)


# sampling
@of('sampling', 'place', 'SAMPLERS', 'time_augment', 'offset_uniform', 'segment_uniform', 'positive_pairs', 'random_clip', 'check_sampler')
@given(SEED, LENGTH, st.integers(2, 40), st.sampled_from(tuple(sampling.SAMPLERS)))
def test_samplers_draw_frames_that_are_there(seed, length, n_frames, name):
    draw, rng = sampling.check_sampler(name), rng_at(seed)
    first = draw(length, n_frames, rng)[0]
    steps, mask = draw(length, n_frames, rng, first)
    if name == 'positive_pairs':
        gap = (steps[::2] - steps[1::2])[mask[::2]]
        assert ((gap >= 1) & (gap <= 5) | (steps[1::2] == 0)[mask[::2]]).all()
        steps, mask = steps[::2], mask[::2]
    assert len(steps) == len(mask) == n_frames and mask.any() and not (np.diff(mask.astype(int)) > 0).any()
    assert (steps >= 0).all() and (steps < length).all() and (np.diff(steps) >= 0).all()
    if name != 'segment_uniform': assert len(set(steps[mask])) == mask.sum()
    refuses(lambda: draw(length, 1, rng), 1)
    refuses(lambda: draw(0, n_frames, rng), 0)
    refuses(lambda: sampling.check_sampler(name, hostile=1), 'hostile')


@of('sampling', 'CUT', 'random_stretch', 'stretch_slice')
@given(SEED, LENGTH, st.floats(), st.floats())
def test_stretches(seed, length, begin, end):
    a, b = sampling.random_stretch(rng_at(seed))
    assert 0 <= a <= sampling.CUT < 1 - sampling.CUT <= b <= 1
    if not 0 <= begin < end <= 1: refuses(lambda: sampling.stretch_slice((begin, end), length), begin)
    else: a, b = begin, end
    part = sampling.stretch_slice((a, b), length)
    assert 0 <= part.start < part.stop <= length and part.stop - part.start >= min(2, length)


@of('sampling', 'epoch_groups')
@given(SEED, st.lists(st.sampled_from('ab'), max_size=12), st.integers(-1, 5))
def test_an_epoch_takes_each_video_once(seed, actions, n_videos):
    videos = [Video(f'{i}', np.zeros((3, 2)), action=a) for i, a in enumerate(actions)]
    if n_videos < 1 or any(0 < actions.count(a) < n_videos for a in 'ab'):
        refuses(lambda: sampling.epoch_groups(videos, n_videos, rng_at(seed)), n_videos)
        return
    groups = sampling.epoch_groups(videos, n_videos, rng_at(seed))
    names = [v.name for g in groups for v in g]
    assert len(set(names)) == len(names) and all(len(g) == n_videos and len({v.action for v in g}) == 1 for g in groups)
    assert len(groups) == sum(actions.count(a)//n_videos for a in 'ab')


# augment
@of('augment', 'draw_crop', 'Draw', 'draw_ssl', 'draw_mild', 'apply_draw', 'gaussian_blur', 'blur_matrix')
@given(SEED, SIZE, SIZE, st.floats(0, 20), st.integers(1, 12), st.booleans())
def test_pictures_stay_pictures(seed, h, w, strength, size, mild):
    rng = rng_at(seed)
    top, left, height, width = augment.draw_crop(rng, h, w)
    assert 0 <= top < top + height <= h and 0 <= left < left + width <= w
    draw = augment.draw_mild(rng, h, w) if mild else augment.draw_ssl(rng, h, w, strength)
    frames = torch.from_numpy(rng.integers(0, 256, (2, 3, h, w), np.uint8))
    y = augment.apply_draw(frames, draw, size)
    assert y.shape == (2, 3, size, size) and ((y >= -1e-5) & (y <= 1 + 1e-5)).all()
    sigma = 10**rng.uniform(-9, 1)
    B = augment.blur_matrix(h, sigma)
    assert (B >= 0).all() and torch.allclose(B.sum(1), torch.ones(h))
    assert torch.allclose(augment.gaussian_blur(torch.full((2, h, w), .3), sigma), torch.tensor(.3))


@of('augment', 'adjust', 'to_gray', 'turn_hue', 'compiled_adjust')
@given(SEED, st.sampled_from(('brightness', 'contrast', 'saturation', 'hue')), st.floats(-1e3, 1e3))
def test_colours_stay_colours(seed, op, amount):
    x = torch.from_numpy(rng_at(seed).random((2, 3, 4, 5))).float()
    y = augment.adjust(x, op, amount)
    assert y.shape == x.shape and ((y >= -1e-5) & (y <= 1 + 1e-5)).all()
    turned = augment.turn_hue(x, round(amount))
    assert torch.allclose(turned, x, atol=2e-3)  # whole turns; 1000 of them cost three digits of float32
    assert torch.allclose(augment.to_gray(x), augment.to_gray(augment.to_gray(x).expand_as(x)), atol=1e-6)
    refuses(lambda: augment.adjust(x, 'gamma', amount), 'gamma')
    assert augment.compiled_adjust('eager') is augment.compiled_adjust('eager')  # what it computes: 14_augment


@of('augment', 'ssl_augment', 'mild_augment', 'eval_transform', 'augmentation', 'AUGMENTATIONS', 'IMAGENET_MEAN', 'IMAGENET_STD')
@given(SEED, st.integers(0, 2), st.integers(0, 3), SIZE, SIZE, st.integers(1, 9), st.sampled_from(('ssl', 'mild')))
def test_augmented_clips_are_finite(seed, n, t, h, w, size, name):
    frames, rngs = torch.from_numpy(rng_at(seed).integers(0, 256, (n, t, 3, h, w), np.uint8)), [rng_at(seed, i) for i in range(n)]
    if t == 0 or n == 0: frames = frames.float()
    y = augment.augmentation(name, size=size)(frames, rngs)
    assert y.shape == (n, t, 3, size, size) and y.isfinite().all() and y.dtype == torch.float32
    low, high = ((torch.tensor([v, v, v]) - torch.tensor(augment.IMAGENET_MEAN))/torch.tensor(augment.IMAGENET_STD) for v in (0., 1.))
    assert ((y >= low.view(3, 1, 1) - 1e-4) & (y <= high.view(3, 1, 1) + 1e-4)).all() and name in augment.AUGMENTATIONS['images']
    refuses(lambda: augment.augmentation(name, size=size)(frames, [*rngs, rng_at(0)]), n + 1)
    if n and t:
        assert augment.eval_transform(frames[0], size).isfinite().all()
        for crop in (0, -1, max(h, w) + 1): refuses(lambda: augment.eval_transform(frames[0], size, crop=crop), crop)


@of('augment', 'augment_joints')
@given(SEED, st.integers(0, 3), st.integers(0, 4), st.floats(0, 1e3), st.floats(0, 1e3))
def test_joints(seed, n, t, rotate, shift):
    clips, rngs = tensor(seed, n, t, 26), [rng_at(seed, i) for i in range(n)]
    assert torch.allclose(augment.augment_joints(clips, rngs, flip=0, rotate=0, scale=0), clips)
    y = augment.augment_joints(clips, rngs, rotate=rotate, scale=0, shift=shift)
    assert y.shape == clips.shape and y.isfinite().all()
    if t > 1:  # the same for all frames of a clip: lengths of bones are kept
        bones = lambda x: (x.unflatten(-1, (13, 2)) - x.unflatten(-1, (13, 2)).mean(-2, keepdim=True)).norm(dim=-1).sort(-1).values
        assert torch.allclose(bones(y), bones(clips), atol=1e-9*(1 + shift))


# dtw, softdtw
@of('dtw', 'cost_matrix')
@given(SEED, SIZE, SIZE, st.integers(0, 6), KIND, st.floats(-30, 30).map(lambda p: 10**p), st.sampled_from(('f2', 'f4', 'f8', 'i4', 'u1', 'bool')))
def test_costs(seed, n, m, d, kind, scale, dtype):
    if dtype != 'f8' or kind == 'cosine': scale = 1.
    x, y = ((abs(normal(seed + i, k, d))*3*scale).astype(dtype) for i, k in enumerate((n, m)))
    D, slow = dtw.cost_matrix(x, y, kind), slow_cost(x.astype('f8'), y.astype('f8'), kind)
    assert D.shape == (n, m) and D.dtype == (torch.float64 if dtype == 'f8' else torch.float32) and (D >= 0).all()
    if kind == 'cosine': slow = np.where(np.outer(np.linalg.norm(x.astype('f8'), axis=1), np.linalg.norm(y.astype('f8'), axis=1)) > 0, slow, 1)
    longest = max([1e-300, *(float((v.astype('f8')**2).sum(1).max()) for v in (x, y))])
    atol = dict(euclidean=1e-6 + 1e-7*longest**.5, sqeuclidean=1e-14*longest + 1e-300, cosine=1e-6)[kind]
    assert np.allclose(D, slow, rtol=1e-5, atol=atol)
    if dtype == 'f8':
        z = torch.from_numpy(x).requires_grad_()
        dtw.cost_matrix(z, y, kind).sum().backward()
        assert z.grad.isfinite().all()


@of('dtw', 'dtw_path', 'dtw_cost', 'dtw_matrix')
@given(SEED, SIZE, SIZE, st.integers(1, 3), st.booleans(), st.booleans(), st.sampled_from((0., .2)), st.sampled_from(('f4', 'f8', 'i8')))
def test_dtw_is_the_cheapest_path(seed, n, m, batch, open_begin, open_end, forbidden, dtype):
    rng = rng_at(seed)
    D = np.round(rng.normal(size=(batch, n, m))*9).astype(dtype)
    if dtype != 'i8': D[rng.random(D.shape) < forbidden] = inf
    lengths = np.stack([rng.integers(1, k + 1, batch) for k in (n, m)], 1)
    options = dict(open_begin=open_begin, open_end=open_end)
    values, paths = dtw.dtw_path(D, lengths, **options)
    A = dtw.dtw_matrix(D, lengths, **options).numpy()
    assert np.array_equal(values, dtw.dtw_cost(D, (torch.from_numpy(lengths[:, 0]), torch.from_numpy(lengths[:, 1])), **options))
    for b, (a, c) in enumerate(lengths):
        slow = slow_dtw(D[b, :a, :c].astype('f8'), **options)
        assert values[b] == slow
        if slow < inf: assert check_path(paths[b], D[b, :a, :c].astype('f8'), open_begin, open_end) == slow
        assert np.array_equal(np.argwhere(A[b]), paths[b])
    if not (open_begin or open_end): assert dtw.dtw_cost(D[0], band=max(n, m)) == dtw.dtw_cost(D[0])


@of('dtw', 'dtw_path')
@pytest.mark.parametrize('shape', [(1, 5000), (5000, 1), (5000, 2), (3, 5000), (1, 1)])
def test_long_and_thin(shape):
    D = np.round(abs(normal(1, *shape))*9)
    value, path = dtw.dtw_path(D)
    assert value == slow_dtw(D) == check_path(path, D)
    soft = softdtw.soft_dtw(torch.from_numpy(D).requires_grad_(), 1e-3)
    assert abs(soft.item() - slow_dtw(D, 1e-3)) < 1e-6*abs(value) + 1e-9
    soft.backward()


@of('dtw', 'dtw_path')
@of('softdtw', 'soft_dtw')
@pytest.mark.parametrize('call', [dtw.dtw_path, dtw.dtw_cost, dtw.dtw_matrix, softdtw.soft_dtw, softdtw.expected_alignment, partial_.partial_path, partial_.drop_cost, partial_.subsequence_ends, partial_.best_matches])
def test_no_cost_that_is_none(call):
    for bad in (nan, -inf): refuses(lambda: call(np.array([[0., 1, 2], [3, bad, 5]])), f'cost[1, 1] of pair 0 is {bad}')
    for shape in ((0, 3), (3, 0), (3,), (1, 2, 3, 4)): refuses(lambda: call(np.zeros(shape)), shape)
    refuses(lambda: call(np.zeros((2, 3), complex)), 'complex128')


@of('dtw', 'dtw_path')
@pytest.mark.parametrize('call', [dtw.dtw_path, dtw.dtw_cost, dtw.dtw_matrix, softdtw.soft_dtw, softdtw.expected_alignment])
@pytest.mark.parametrize('lengths', [(0, 2), (3, 2), (-1, 1), (2, 4), (2**40, 1)])
def test_no_length_that_does_not_fit(call, lengths):
    refuses(lambda: call(np.zeros((2, 3)), lengths=np.array([lengths])), list(lengths))
    refuses(lambda: call(np.zeros((2, 3)), lengths=np.array([[1.5, 2]])), 'float64')
    for band in (-1, 1.5, nan): refuses(lambda: call(np.zeros((2, 3)), band=band), band)


@of('softdtw', 'soft_dtw', 'expected_alignment')
@given(SEED, SIZE, SIZE, GAMMA, st.booleans(), st.booleans(), st.sampled_from((0., .2)), st.sampled_from((1e-6, 1., 1e6)))
def test_soft_dtw_is_the_soft_minimum_over_paths(seed, n, m, gamma, open_begin, open_end, forbidden, scale):
    rng = rng_at(seed)
    D = rng.normal(size=(n, m))*scale
    D[rng.random(D.shape) < forbidden] = inf
    cost, options = torch.from_numpy(D).requires_grad_(), dict(open_begin=open_begin, open_end=open_end)
    value, slow = softdtw.soft_dtw(cost, gamma, **options), slow_dtw(D, gamma, **options)
    assert value.item() == slow or abs(value.item() - slow) <= 1e-9*(abs(slow) + gamma + scale)
    value.backward()
    E = softdtw.expected_alignment(D, gamma, **options)
    assert cost.grad.isfinite().all() and ((cost.grad >= 0) & (cost.grad <= 1 + 1e-6)).all() and torch.allclose(cost.grad, E, atol=1e-6)
    if slow < inf and not (open_begin or open_end):  # the way through a cell: to it, and from it
        with np.errstate(invalid='ignore'): through = slow_dtw(D, gamma, table=True) + slow_dtw(D[::-1, ::-1], gamma, table=True)[::-1, ::-1] - D
        assert np.allclose(E, np.nan_to_num(np.exp(-(np.where(np.isnan(through), inf, through) - slow)/gamma)), atol=1e-6 + 1e-12*scale/gamma)


@of('softdtw', 'soft_dtw_from_embs', 'soft_dtw_divergence')
@given(SEED, SIZE, SIZE, st.integers(1, 3), st.integers(1, 5), GAMMA, KIND, st.sampled_from((0., 1e-8, 1., 1e8)))
def test_soft_dtw_of_embeddings(seed, n, m, batch, d, gamma, kind, scale):
    x, y = (tensor(seed + i, batch, k, d, scale=scale).requires_grad_() for i, k in enumerate((n, m)))
    lengths = torch.from_numpy(np.stack([rng_at(seed, k).integers(1, k + 1, batch) for k in (n, m)], 1))
    fused, apart = softdtw.soft_dtw_from_embs(x, y, gamma, kind, lengths), softdtw.soft_dtw(dtw.cost_matrix(x, y, kind), gamma, lengths)
    assert torch.allclose(fused, apart, rtol=1e-6, atol=1e-5*(1 + (scale if kind == 'euclidean' else 0)))
    for g in torch.autograd.grad(fused.sum(), (x, y)): assert g.isfinite().all()
    value = softdtw.soft_dtw_divergence(x, y, gamma, kind)
    assert torch.allclose(value, softdtw.soft_dtw_divergence(y, x, gamma, kind), rtol=1e-6, atol=1e-6*(1 + gamma + scale**2))
    assert softdtw.soft_dtw_divergence(x, x, gamma, kind).abs().max() <= 1e-9*(1 + scale**2)
    for bad in (nan, inf):
        z = x.detach().clone()
        z[0, 0, 0] = bad
        for f in (softdtw.soft_dtw_from_embs, softdtw.soft_dtw_divergence): refuses(lambda: f(z, y, gamma, kind), 'nan' if kind == 'cosine' else bad)


# partial, long
@of('partial', 'Match', 'partial_path', 'drop_cost')
@given(SEED, SIZE, SIZE, st.one_of(st.none(), st.floats(0, 5), st.just(inf)), st.sampled_from(('', 'x', 'y', 'xy')), st.sampled_from(('', 'x', 'y', 'xy')), st.floats(0, 1))
def test_matches_add_up(seed, n, m, drop, begin, end, skip):
    D = abs(normal(seed, n, m))
    if skip == 0 and {*begin, *end} == {'x', 'y'}:
        refuses(lambda: partial_.partial_path(D, drop, begin, end, skip), 'skip 0')
        return
    match = partial_.partial_path(D, drop, begin, end, skip)
    assert isinstance(match, partial_.Match) and match.value <= dtw.dtw_cost(D) + 1e-9
    for dropped, on_path in zip((match.dropped_x, match.dropped_y), match.path.T):
        assert np.array_equal(np.flatnonzero(~dropped), np.unique(on_path))
        inside = dropped[on_path.min():on_path.max()] if len(on_path) else dropped[:0]
        if drop is None or drop == inf: assert not inside.any() and (begin or end or not dropped.any())
    if not begin and not end:
        price = 0 if drop is None or drop == inf else drop*(match.dropped_x.sum() + match.dropped_y.sum())
        assert abs(D[tuple(match.path.T)].sum() + price - match.value) < 1e-9
        if drop is None: assert abs(match.value - dtw.dtw_cost(D)) < 1e-9
    q = (seed % 101)
    assert abs(2*partial_.drop_cost(D, q) - np.percentile(D, q)) < 1e-12


@of('partial', 'subsequence_ends', 'SubsequenceStream', 'best_ends', 'best_matches')
@of('long', 'StreamSearch', 'search_long')
@given(SEED, st.integers(1, 5), st.integers(1, 9), st.integers(1, 3), st.integers(1, 4), st.floats(0, 20))
def test_search_finds_the_cheapest_places(seed, n, m, k, piece, limit):
    x, y = normal(seed, n, 2), normal(seed + 1, m, 2)
    D = dtw.cost_matrix(x, y).numpy()
    values, starts = partial_.subsequence_ends(D)
    for e in range(m):
        slow = [dtw.dtw_cost(D[:, s:e + 1]) for s in range(e + 1)]
        assert abs(values[e] - min(slow)) < 1e-9 and abs(slow[starts[e]] - min(slow)) < 1e-9
    found = partial_.best_matches(D, k, limit)
    assert len(found) <= k and all(a.value <= b.value <= limit for a, b in pairwise(found)) and all(f.value <= limit for f in found)
    taken = np.concatenate([[], *(np.unique(f.path[:, 1]) for f in found)])
    assert len(set(taken)) == len(taken) and (not found or abs(found[0].value - values.min()) < 1e-9) and (found or values.min() > limit)
    ends = partial_.best_ends(values, starts, k, limit)
    assert [(f.path[0, 1], f.path[-1, 1]) for f in found] == [e[:2] for e in ends] and [f.value for f in found] == [e[2] for e in ends]
    column = partial_.SubsequenceStream(n)
    pieces = [column.feed(D[:, a:a + piece]) for a in range(0, m, piece)]
    assert all(np.array_equal(whole, np.concatenate(part)) for whole, part in zip((values, starts), zip(*pieces)))
    refuses(lambda: column.feed(D[:1].repeat(n + 1, 0)), n)
    stream = long.StreamSearch(x)
    for a in range(0, m, piece): stream.feed(y[a:a + piece])
    again = long.search_long(x, y, k, limit)
    assert [f[2] for f in stream.matches(k, limit)] == pytest.approx([f.value for f in found]) == [f.value for f in again]
    for bad in (nan, 0, -1, 1.5):
        for refused in (lambda: partial_.best_matches(D, bad), lambda: partial_.best_ends(values, starts, bad), lambda: partial_.SubsequenceStream(bad)): refuses(refused, bad)
    refuses(lambda: long.search_long(x, y, k, nan), nan)


@of('long', 'LongPath', 'long_path', 'band_windows', 'coarse_windows')
@given(SEED, st.integers(1, 30), st.integers(1, 30), st.integers(0, 5), st.integers(1, 4), KIND)
def test_long_paths(seed, n, m, band, factor, kind):
    x, y = normal(seed, n, 3), normal(seed + 1, m, 3)
    D = dtw.cost_matrix(x, y, kind).numpy()
    whole = long.long_path(x, y, kind)
    assert isinstance(whole, long.LongPath) and whole.at_edge == 0 and abs(whole.value - dtw.dtw_cost(D)) < 1e-9 and abs(check_path(whole.path, D) - whole.value) < 1e-9
    lo, hi = long.band_windows(n, m, band).T
    for k, (a, b) in enumerate(zip(lo, hi)):
        inside = [i for i in range(m) if n == 1 or abs(k*(m - 1) - i*(n - 1)) <= max(band, .5)*max(n - 1, m - 1)]
        assert (a, b) == (inside[0], inside[-1] + 1)
    coarse = long.coarse_windows(x, y, factor, band, kind)
    narrow = long.long_path(x, y, kind, coarse)
    assert narrow.value >= whole.value - 1e-9 and ((narrow.path[:, 1] >= coarse[narrow.path[:, 0], 0]) & (narrow.path[:, 1] < coarse[narrow.path[:, 0], 1])).all()
    for bad in (-1, nan, 1.5):
        refuses(lambda: long.band_windows(n, m, bad), bad)
        refuses(lambda: long.coarse_windows(x, y, factor, bad), bad)
        refuses(lambda: long.coarse_windows(x, y, bad), bad)
    for bad in (nan, inf, 1e200):
        z = y.copy()
        z[-1, 0] = bad
        for f in (long.long_path, long.search_long, long.coarse_windows): refuses(lambda: f(x, z), f'y: the embedding of frame {m - 1}')


# priors, propagation, idm
def slow_log_softmax(logits, mask):
    out = np.full(logits.shape, -inf)
    for row, found in zip(logits, out):
        if mask.any(): found[mask] = row[mask] - row[mask].max() - np.log(np.exp(row[mask] - row[mask].max()).sum())
    return out


def slow_kl(log_p, log_q):
    p = np.exp(log_p)
    with np.errstate(invalid='ignore'): return np.where(p > 0, p*(log_p - log_q), 0).sum(-1)


def unit(x): return x/np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


@of('priors', 'log_similarity', 'log_prior', 'kl_per_anchor', 'pooled_mean')
@of('propagation', 'first_match', 'log_propagated_prior', 'propagation_kl')
@given(SEED, SIZE, SIZE, st.integers(0, 9), st.floats(-3, 3).map(lambda p: 10**p), st.floats(-3, 6).map(lambda p: 10**p), st.sampled_from((0., 1e-6, 1., 1e6)))
def test_priors(seed, n, m, n_valid, temperature, sigma2, scale):
    z_B, z_A, rng = normal(seed, n, 4, scale=scale), normal(seed + 1, m, 4, scale=scale), rng_at(seed)
    S_B, S_A = (np.sort(rng.integers(0, 5000, k)) for k in (n, m))
    mask = np.arange(m) < n_valid
    t = torch.from_numpy
    log_q, log_p = priors.log_similarity(t(z_B), t(z_A), t(mask), temperature), priors.log_prior(t(S_B).double(), t(S_A).double(), t(mask), sigma2)
    slow_q, slow_p = slow_log_softmax(unit(z_B) @ unit(z_A).T/temperature, mask), slow_log_softmax(-(S_B[:, None] - S_A.astype('f8'))**2/(2*sigma2), mask)
    for fast, slow in ((log_q, slow_q), (log_p, slow_p)): assert np.allclose(fast, slow, rtol=1e-9, atol=1e-9) and not fast.isnan().any()
    kl = priors.kl_per_anchor(log_p, log_q)
    assert np.allclose(kl, slow_kl(slow_p, slow_q), rtol=1e-7, atol=1e-9)
    some = rng.random(n) < .5
    assert np.allclose(priors.pooled_mean(kl, t(some)), kl[t(some)].mean() if some.any() else 0)
    path = dtw.dtw_matrix(slow_cost(z_B, z_A, 'euclidean'))
    first = [int(np.flatnonzero(c)[0]) for c in path.numpy().T]
    assert propagation.first_match(path).tolist() == first
    carried = slow_log_softmax(-(S_B[:, None] - S_B[first].astype('f8'))**2/(2*sigma2), mask)
    assert np.allclose(propagation.log_propagated_prior(path, t(S_B).double(), t(mask), sigma2), carried, rtol=1e-9, atol=1e-9)
    anchors = t(z_B).requires_grad_()
    value = propagation.propagation_kl(path, anchors, t(z_A), t(S_B).double(), t(mask), sigma2, temperature)
    assert np.allclose(value.detach(), slow_kl(carried, slow_q), rtol=1e-7, atol=1e-9)
    value.sum().backward()
    assert anchors.grad.isfinite().all()


@of('priors', 'same_video_loss')
@of('losses.scl', 'scl')
@given(SEED, st.integers(1, 3), st.integers(2, 3), st.integers(1, 6), st.sampled_from((nan, inf, -inf, 1e30, 0.)))
def test_views_of_one_video(seed, V, K, T, junk):
    rng = rng_at(seed)
    z, steps, mask = normal(seed, V, K, T, 3), np.sort(rng.integers(0, 50, (V, K, T)), -1), np.arange(T) < rng.integers(0, T + 1, (V, K, 1))
    total, n = 0., 0
    for v, b, a in product(range(V), range(K), range(K)):
        if a == b or not mask[v, a].any(): continue
        log_p = slow_log_softmax(-(steps[v, b][:, None] - steps[v, a].astype('f8'))**2/20, mask[v, a])
        kl = slow_kl(log_p, slow_log_softmax(unit(z[v, b]) @ unit(z[v, a]).T/.1, mask[v, a]))
        total, n = total + kl[mask[v, b]].sum(), n + mask[v, b].sum()
    embs = torch.from_numpy(np.where(mask[..., None], z, junk)).requires_grad_()
    value = scl.scl(embs, torch.from_numpy(steps), torch.full((V,), 50), torch.from_numpy(mask))
    assert abs(value.item() - total/max(n, 1)) < 1e-4*(1 + total/max(n, 1))  # times are float32
    value.backward()
    assert embs.grad.isfinite().all() and (embs.grad.numpy()[~mask] == 0).all()


@of('propagation', 'PAIRS', 'cross_pairs')
@of('losses.tcc', 'ordered_pairs')
@given(st.integers(0, 4), st.integers(1, 3), st.sampled_from(propagation.PAIRS))
def test_pairs(V, K, pairs):
    rows, columns = propagation.cross_pairs(V, K, pairs)
    found = list(zip(rows.tolist(), columns.tolist()))
    every = [(i, j) for i, j in product(range(V*K), repeat=2) if i//K < j//K]
    if pairs in ('all', 'ordered'): assert sorted(found) == every
    if pairs == 'diagonal': assert sorted(found) == [(i, j) for i, j in every if i % K == j % K]
    if pairs == 'one': assert set(found) <= set(every) and sorted({(i//K, j//K) for i, j in found}) == [(i//K, j//K) for i, j in found]
    if V > 1: assert sorted(zip(*(i.tolist() for i in tcc.ordered_pairs(V, K)))) == sorted(every + [(j, i) for i, j in every])
    else: refuses(lambda: tcc.ordered_pairs(V, K), V)
    refuses(lambda: propagation.cross_pairs(V, 0, pairs), 0)


@of('idm', 'contrastive_idm')
@given(SEED, st.integers(1, 7), st.integers(0, 7), st.floats(0, 30), st.floats(1e-3, 10), st.floats(1e-2, 1e3), st.sampled_from((0., 1., 1e6)), st.sampled_from((nan, inf, 0.)))
def test_idm(seed, T, n, window, margin, scale, size, junk):
    z, times, mask = normal(seed, T, 3, scale=size), np.sort(rng_at(seed).integers(0, 60, T)).astype('f8'), np.arange(T) < n
    slow = 0.
    for i, j in product(range(min(n, T)), repeat=2):
        gap, d = abs(times[i] - times[j]), float(((z[i] - z[j])**2).sum())
        slow += (1 + (gap/scale)**2)*max(0, margin - d) if gap > window else d
    value = idm.contrastive_idm(torch.from_numpy(np.where(mask[:, None], z, junk if n < T else 0.)), *map(torch.from_numpy, (times, mask)), window, margin, scale)
    assert abs(value.item() - slow) <= 1e-6*(1 + slow)


# Losses: what holds of all
def batch(seed, V=2, K=2, T=8, d=4, scale=1., least=1):
    rng = rng_at(seed)
    mask = torch.arange(T) < torch.from_numpy(rng.integers(least, T + 1, (V, K, 1)))
    steps = torch.from_numpy(np.sort(rng.integers(0, 40, (V, K, T)), -1))
    return tensor(seed, V, K, T, d, scale=scale).float(), steps, torch.full((V,), 40), mask


LOSSES = dict(sal=sal.SAL(4), tcn=tcn.tcn, tcc=tcc.tcc, lav=lav.lav, vava=vava.vava, VAVA=vava.VAVA(), scl=scl.scl, lrprop=lrprop.lrprop, gta=gta.gta)


def value_and_grad(loss, embs, *rest):
    torch.manual_seed(0)
    z = embs.clone().requires_grad_()
    value = loss(z, *rest)
    return value, torch.autograd.grad(value, z)[0]


@of('losses.sal', 'SAL')
@of('losses.tcn', 'tcn')
@of('losses.tcc', 'tcc')
@of('losses.lav', 'lav')
@of('losses.vava', 'vava', 'VAVA')
@of('losses.lrprop', 'lrprop')
@of('losses.gta', 'gta')
@pytest.mark.parametrize('name', list(LOSSES))
@settings(max_examples=6)
@given(SEED, st.integers(1, 8), st.sampled_from((0., 1e-20, 1e-3, 1., 1e3)), st.sampled_from((1e30, -1e10, nan, inf)))
def test_losses_are_finite_and_padding_has_no_say(name, seed, T, scale, junk):
    T += T % 2 if name == 'tcn' else 0
    loss, (embs, steps, lens, mask) = LOSSES[name], batch(seed, T=T, scale=scale)
    value, grad = value_and_grad(loss, embs, steps, lens, mask)
    assert value.isfinite() and value.ndim == 0 and grad.isfinite().all() and (grad[~mask] == 0).all()
    other, other_grad = value_and_grad(loss, torch.where(mask[..., None], embs, junk), steps, lens, mask)
    assert torch.allclose(value, other, rtol=1e-5, atol=1e-7) and torch.allclose(grad, other_grad, rtol=1e-4, atol=1e-6*float(grad.abs().max() + 1e-30))


@of('losses.scl', 'scl')
@pytest.mark.parametrize('name', [n for n in LOSSES if n != 'sal'])
@pytest.mark.parametrize('bad', [nan, inf, -inf])
def test_a_frame_that_is_no_number_is_never_hidden(name, bad):
    "The loss is none either (the trainer then stops), or the frame is named."
    embs, *rest = batch(3, T=8, least=8)
    embs[1, 0, 4, 2] = bad
    try: value = LOSSES[name](embs, *rest)
    except ValueError as e: assert 'nan' in str(e) or 'inf' in str(e)
    else: assert not value.isfinite()


@of('losses.lav', 'lav')
@pytest.mark.parametrize('name', [n for n in LOSSES if n not in ('sal', 'scl', 'tcn', 'lrprop')])
def test_aligning_takes_two_videos(name): refuses(lambda: LOSSES[name](*batch(0, V=1)), 1)


# Losses: their parts
@of('losses.sal', 'IGNORED', 'pick_three', 'draw_triplets')
@given(SEED, st.integers(1, 4), st.integers(1, 12), st.integers(1, 9), st.floats(0, 1))
def test_triplets(seed, B, T, n_triplets, share):
    mask = torch.arange(T) < torch.from_numpy(rng_at(seed).integers(0, T + 1, (B, 1)))
    torch.manual_seed(seed % 2**31)
    clip, slots, label = sal.draw_triplets(mask, n_triplets, share)
    counts = mask.sum(-1)[clip] >= 5
    assert slots.shape == (B*n_triplets, 3) and ((label == sal.IGNORED) == ~counts).all()
    a, b, c = slots[counts].unbind(-1)
    assert mask[clip[counts][:, None], slots[counts]].all() and (((a < b) & (b < c) | (a > b) & (b > c)) == (label[counts] == 0)).all()
    assert (label[counts] == 1).sum() == int(share*n_triplets*int((mask.sum(-1) >= 5).sum()))
    five = torch.arange(5).expand(2, 5)
    assert sal.pick_three(five, torch.tensor([True, False]), torch.tensor([True, True])).tolist() == [[1, 4, 3], [1, 2, 3]]


@of('losses.tcc', 'SIMILARITIES', 'VARIANTS', 'cycle_back', 'cycle_losses')
@given(SEED, SIZE, SIZE, st.sampled_from(tcc.SIMILARITIES), st.sampled_from(tcc.VARIANTS))
def test_cycles(seed, n, m, similarity, variant):
    x, y, rng = normal(seed, n, 3), normal(seed + 1, m, 3), rng_at(seed)
    valid = [np.arange(k) < rng.integers(1, k + 1) for k in (n, m)]
    t = torch.from_numpy
    logits = tcc.cycle_back(t(x)[None], t(x)[None], t(y)[None], t(valid[0])[None], t(valid[1])[None], similarity)
    sim = lambda a, b: (-slow_cost(a, b, 'sqeuclidean') if similarity == 'l2' else a @ b.T)/(3*.1)
    alpha = np.exp(slow_log_softmax(sim(x, y), valid[1]))
    slow = slow_log_softmax(sim(alpha @ y, x), valid[0])
    assert np.allclose(logits[0].log_softmax(-1)[:, valid[0]], slow[:, valid[0]], rtol=1e-6, atol=1e-6)
    times, start = np.sort(rng.random(n)), torch.arange(n)
    losses = tcc.cycle_losses(logits, start[None], t(times)[None], t(valid[0])[None], variant)[0].numpy()
    beta = np.exp(slow)
    mean = beta @ times
    var = np.maximum((beta*(times - mean[:, None])**2).sum(1), 1e-8)
    err = times - mean
    huber = np.where(abs(err) <= .1, err**2/2, .1*(abs(err) - .05))
    with np.errstate(invalid='ignore'): smooth = -.9*np.diag(slow) - .1*slow[:, valid[0]].mean(1)
    expected = dict(regression_mse_var=err**2/var + .001*np.log(var), regression_mse=err**2, regression_huber=huber, classification=smooth)[variant]
    assert np.allclose(losses[valid[0]], expected[valid[0]], rtol=1e-5, atol=1e-7)


@of('losses.vava', 'consistency_weight', 'transport_priors', 'sinkhorn', 'transport', 'intra_contrast')
@given(SEED, st.integers(1, 8), st.integers(0, 10**7), st.sampled_from(('corrected', 'released')), st.sampled_from((0., 1., 4.)))
def test_transport(seed, T, step, variant, scale):
    phi = vava.consistency_weight(step)
    assert .001 <= phi <= .999 and abs(float(vava.consistency_weight(torch.tensor(step))) - phi) < 1e-2
    rng, t = rng_at(seed), torch.from_numpy
    n = rng.integers(1, T + 1, (2, 3))
    masks = [t(np.arange(T) < k[:, None]) for k in n]
    cost = t(rng.random((3, T, T))*scale)
    prior, score = vava.transport_priors(t(rng.integers(0, T, (3, T))), t(n[0]), t(n[1]), phi, variant=variant)
    assert prior.shape == score.shape == (3, T + 1, T + 1) and (prior >= 0).all() and score.isfinite().all() and prior.isfinite().all()
    plan, _, K = vava.transport(cost, *masks, phi, variant=variant)
    assert (plan >= 0).all() and torch.allclose(plan.sum((1, 2)), torch.ones(3).double()) and torch.allclose(plan, vava.sinkhorn(K, *(torch.nn.functional.pad(m, (1, 0), value=True) for m in masks)))
    for b in range(3):
        assert (plan[b, n[0, b] + 1:] == 0).all() and (plan[b, :, n[1, b] + 1:] == 0).all() and torch.allclose(plan[b].sum(1)[:n[0, b] + 1], torch.tensor(1/(n[0, b] + 1)).double())
    near = vava.intra_contrast(cost, masks[0], window=2, margin=1.)
    for b in range(3):
        k = n[0, b]
        slow = sum(max(0, 1 - float(cost[b, i, j])) if abs(i - j) > 2 else float(cost[b, i, j])/((i - j)**2 + 1) for i, j in product(range(k), repeat=2))/k**2
        assert abs(float(near[b]) - slow) < 1e-9


@of('losses.lrprop', 'REGULARIZERS', 'SDTW_NORMS', 'alignment_cost', 'cross_video_losses')
@settings(max_examples=6)
@given(SEED, GAMMA, st.sampled_from(lrprop.SDTW_NORMS), st.sampled_from(lrprop.REGULARIZERS))
def test_alignment_cost(seed, gamma, norm, regularizer):
    embs, steps, lens, mask = batch(seed, V=2, K=1)
    z, m, s = embs[:, 0].double(), mask[:, 0], steps[:, 0]
    pairs, n = (torch.tensor([0]), torch.tensor([1])), mask[:, 0].sum(-1).tolist()
    soft = lambda a, b: slow_dtw(slow_cost(a.numpy(), b.numpy(), 'euclidean'), gamma)
    x, y = z[0, :n[0]], z[1, :n[1]]
    slow = soft(x, y)
    if regularizer == 'divergence': slow -= (soft(x, x) + soft(y, y))/2
    if regularizer == 'idm': slow += .5*sum(float(idm.contrastive_idm(z[i], s[i], m[i], scale=40)) for i in (0, 1))
    value = lrprop.alignment_cost(dtw.cost_matrix(z[:1], z[1:]), z, s, lens, m, pairs, gamma, sdtw_norm=norm, regularizer=regularizer)
    assert abs(value.item() - slow/(sum(n) if norm == 'length' else 1)) < 1e-4*(1 + abs(slow))
    prop, sdtw = lrprop.cross_video_losses(embs, steps, mask, gamma=gamma, sdtw_norm=norm, regularizer=regularizer, seq_lens=lens)
    assert abs(sdtw.item() - value.item()) < 1e-3*(1 + abs(value.item())) and prop >= -1e-6
    assert lrprop.cross_video_losses(embs[:1], steps[:1], mask[:1]) == (0, 0)


@of('losses.gta', 'SOFTMINS', 'CYCLES', 'PAIRS', 'dtw_table', 'contrastive_cost', 'correspondence', 'cycle_entropy')
@given(SEED, SIZE, SIZE, GAMMA, st.sampled_from(gta.CYCLES[:2]))
def test_tables(seed, n, m, gamma, cycle):
    D = abs(normal(seed, n, m))
    lengths = torch.tensor([[n, m]])
    table = {s: gta.dtw_table(torch.from_numpy(D)[None], lengths, gamma, s)[0] for s in gta.SOFTMINS}
    assert np.allclose(table['hard'], slow_dtw(D, table=True)) and np.allclose(table['log'], slow_dtw(D, gamma, table=True), rtol=1e-9, atol=1e-9*(1 + gamma))
    assert (table['smooth'] >= table['hard'] - 1e-9).all() and table['smooth'].isfinite().all() and gta.PAIRS == ('all', 'first')
    x, y, mask_x, mask_y = tensor(seed, 1, n, 3), tensor(seed + 1, 1, m, 3), torch.ones(1, n, dtype=torch.bool), torch.ones(1, m, dtype=torch.bool)
    cost = gta.contrastive_cost(x, y, mask_x)
    assert torch.allclose((-cost).exp().sum(1), torch.ones(m).double()) and (cost >= 0).all()
    there, back = (gta.correspondence(t[None], a, b) for t, a, b in ((table['hard'], mask_x, mask_y), (table['hard'].T, mask_y, mask_x)))
    assert torch.allclose(there.sum(1), torch.ones(m).double())
    assert (gta.cycle_entropy(there, back, mask_x, cycle) >= 0).all()


# neighbours
@of('neighbours', 'check_embeddings', 'pair_neighbours', 'nearest_of_others', 'pair_paths')
@given(SEED, st.sampled_from((1e-90, 1e-3, 1., 1e3, 1e90)), st.integers(1, 9), KIND)
def test_neighbours_beside_slow_ones(seed, scale, k, kind):
    given_embs, _ = videos(seed, scale=scale)
    embs = neighbours.check_embeddings(given_embs)
    plain, near, found = [e/scale for e in embs], dict(), neighbours.nearest_of_others(embs, k)
    assert all((a == b).all() and a.dtype == np.float64 for a, b in zip(embs, given_embs))
    for i, j, nn in neighbours.pair_neighbours(embs): near[i, j] = nn
    assert set(near) == {(i, j) for i, j in product(range(len(embs)), repeat=2) if i != j}
    for (i, j), nn in near.items():
        D = slow_cost(plain[i], plain[j], 'sqeuclidean')
        assert np.allclose(D[np.arange(len(D)), nn], D.min(1))
    frames, owner = np.concatenate(plain), np.repeat(np.arange(len(embs)), [len(e) for e in embs])
    D = slow_cost(frames, frames, 'sqeuclidean')
    assert found.shape == (len(frames), k) and (owner[found] != owner[:, None]).all()
    assert np.allclose(np.take_along_axis(D, found, 1), np.sort(np.where(owner[:, None] == owner, inf, D), 1)[:, :k])
    for pairs, paths in neighbours.pair_paths(embs, kind):
        for (i, j), path in zip(pairs, paths):
            D = slow_cost(plain[i], plain[j], kind)
            assert i < j and check_path(path, D) == pytest.approx(slow_dtw(D), abs=1e-9)
    for bad in (nan, inf, 1e160): refuses(lambda: neighbours.check_embeddings([*given_embs[:1], given_embs[1] + bad]), 'video 1')
    refuses(lambda: next(neighbours.pair_paths(embs, 'manhattan')), 'manhattan')


# metrics
def videos(seed, n=(7, 9, 5), d=3, scale=1.): return [normal(seed + i, k, d, scale=scale) for i, k in enumerate(n)], [np.sort(rng_at(seed, i).integers(0, 3, k)) for i, k in enumerate(n)]


@of('metrics', 'kendalls_tau', 'average_precision', 'dtw_accuracy')
@given(SEED, st.integers(1, 3), st.sampled_from((1e-90, 1e-3, 1., 1e3, 1e90)), st.integers(1, 5))
def test_metrics_beside_slow_ones(seed, stride, scale, k):
    embs, labels = videos(seed, scale=scale)
    thin = [e[::stride]/scale for e in embs]
    tau, hits, accuracy = [], [], []
    for i, j in product(range(3), repeat=2):
        D = slow_cost(thin[i], thin[j], 'sqeuclidean')
        if i != j: tau.append(kendalltau(np.arange(len(D)), D.argmin(1)).statistic)
        if i < j:
            path = dtw.dtw_path(slow_cost(embs[i]/scale, embs[j]/scale, 'euclidean'))[1]
            accuracy.append((labels[i][path[:, 0]] == labels[j][path[:, 1]]).mean())
    for i in range(3):
        others = [j for j in range(3) if j != i]
        D, phase = slow_cost(thin[i], np.concatenate([thin[j] for j in others]), 'sqeuclidean'), np.concatenate([labels[j][::stride] for j in others])
        hits.append((phase[D.argsort(1, kind='stable')[:, :k]] == labels[i][::stride][:, None]).mean())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = metrics.kendalls_tau(embs, stride)
    known = [t for t in tau if not isnan(t)]
    assert abs(found - (np.mean(known) if known else 0)) < 1e-9
    if k <= min(sum(map(len, thin)) - len(t) for t in thin): assert abs(metrics.average_precision(embs, labels, k, stride) - np.mean(hits)) < 1e-9
    else: refuses(lambda: metrics.average_precision(embs, labels, k, stride), k)
    assert abs(metrics.dtw_accuracy(embs, labels) - np.mean(accuracy)) < 1e-9


@of('metrics', 'drop_unlabelled', 'PhaseClassifier', 'phase_classification', 'phase_progression', 'progression_targets')
@settings(max_examples=10)
@given(SEED, st.sampled_from((1e-3, 1., 1e3)), st.sampled_from(('svm', 'linear')), st.sampled_from((.1, .5, 1.)))
def test_classifiers(seed, scale, classifier, fraction):
    embs, labels = videos(seed, (9, 11), scale=scale)
    embs = [np.c_[e, 9*scale*np.eye(3)[l]] for e, l in zip(embs, labels)]  # the phase can be seen
    gaps = [np.where(rng_at(seed, i).random(len(l)) < .2, -1, l) for i, l in enumerate(labels)]
    if all((g >= 0).any() for g in gaps):
        kept, phase = metrics.drop_unlabelled(embs, gaps)
        assert all((p >= 0).all() and len(e) == len(p) for e, p in zip(kept, phase))
    score = metrics.phase_classification(embs, labels, embs, labels, fraction, classifier)
    assert 0 <= score <= 1 and (scale != 1. or fraction < 1 or score > .5)
    fitted = metrics.PhaseClassifier(embs, labels, fraction, classifier)
    assert fitted.score(embs, labels) == score == np.mean(np.concatenate([fitted.predict(e) for e in embs]) == np.concatenate(labels))
    if max(l.max() for l in labels) > 0: assert metrics.phase_progression(embs, labels, embs, labels) > -1e-6  # a line fitted to what it is scored on
    targets = metrics.progression_targets(labels[0], 3)
    assert targets.shape == (9, 2) and np.isfinite(targets).all()
    for c in range(2):
        later = [t for t in range(1, 9) if labels[0][t] > c]
        end = 8 if not later else later[0] - (labels[0][later[0] - 1] == c)
        assert np.allclose(targets[:, c], (np.arange(9) - end)/9)


@of('metrics', 'path_error', 'alignment_error')
@given(SEED, st.integers(2, 9), st.integers(2, 9))
def test_alignment_errors(seed, n, m):
    rng = rng_at(seed)
    x, y = (np.cumsum(rng.integers(0, 3, k)).astype('f8') for k in (n, m))
    line = dtw.dtw_path(abs(x[:, None] - y))[1]
    frames, share = metrics.path_error(line, x, y)
    assert 0 <= frames <= max(n, m) and 0 <= share <= 1
    same = np.stack([np.arange(n)]*2, 1)
    assert metrics.path_error(same, x, x) == (0, 0)
    assert 0 <= metrics.alignment_error([x[:, None], y[:, None]], [x, y]) <= 1 and metrics.alignment_error([np.arange(n)[:, None]*1.]*2, [np.arange(n)]*2) == 0
    for bad in (n, -1): refuses(lambda: metrics.path_error(np.array([[0, 0], [bad, 0]]), x, y), f'{n} × {m}')


METRICS = dict(tau=metrics.kendalls_tau, ap=lambda e: metrics.average_precision(e, videos(0)[1], 2), dtw=lambda e: metrics.dtw_accuracy(e, videos(0)[1]), error=lambda e: metrics.alignment_error(e, [np.arange(len(x)) for x in e]),
               svm=lambda e: metrics.phase_classification(e, videos(0)[1], *videos(0)), progress=lambda e: metrics.phase_progression(e, videos(0)[1], *videos(0)), trained=lambda e: metrics.phase_classification(*videos(0), e, videos(0)[1]))


@of('metrics', 'kendalls_tau')
@pytest.mark.parametrize('name', list(METRICS))
def test_metrics_refuse_what_is_no_embedding(name):
    for bad in (nan, inf, -inf, 1e160): refuses(lambda: METRICS[name]([e + bad if i == 1 else e for i, e in enumerate(videos(0)[0])]), 'video 1')
    refuses(lambda: METRICS[name]([*videos(0)[0][:2], np.zeros((5, 0))]), 'video 2')
    refuses(lambda: METRICS[name]([*videos(0)[0][:2], np.zeros(5)]), '(5,)')
    refuses(lambda: METRICS[name]([e*1j for e in videos(0)[0]]), 'complex128')


# align
@of('align', 'Alignment', 'align')
@given(SEED, st.integers(2, 9), st.integers(2, 9), KIND, st.booleans(), st.sampled_from((1e-100, 1., 1e100)))
def test_align(tmp_path_factory, seed, n, m, kind, center, scale):
    x, y = normal(seed, n, 3), normal(seed + 1, m, 3)
    a = align.align(x*scale, y*scale, kind, center)
    rows = lambda v: unit(v - v.mean(0) if center else v)
    slow = slow_cost(rows(x), rows(y), kind)
    assert np.allclose(a.cost, slow, atol=1e-5) and abs(check_path(a.path, slow) - slow_dtw(slow)) < 1e-5 and abs(a.value - slow_dtw(slow)) < 1e-4 and a.mean_cost*len(a.path) == pytest.approx(a.value)
    assert (a.warp() == a.partners()).all() and (np.diff(a.warp()) >= 0).all() and a.step_costs.shape == (len(a.path),)
    for k in range(n): assert a.warp()[k] in a.path[a.path[:, 0] == k][:, 1]
    lines = a.to_csv(tmp_path_factory.getbasetemp()/'path.csv').read_text().splitlines()
    assert len(lines) == len(a.path) + 1 and [line.split(',')[0] for line in lines[1:]] == [str(k) for k in a.path[:, 0]]
    for bad in (nan, inf):
        z = y.copy()
        z[1, 0] = bad
        refuses(lambda: align.align(x, z, name_y='clip'), 'clip: the embedding of frame 1')
    for path in ([[0, 0], [n, 0]], [[0, 0], [-1, 0]], [[1, 1], [0, 0]], []): refuses(lambda: align.Alignment(np.array(path, int), slow), slow.shape)


@of('align', 'ALIKE', 'align')
@given(SEED, st.integers(2, 9), st.integers(2, 9), st.booleans(), st.booleans(), st.floats(0, 100))
def test_align_in_part(seed, n, m, partial, drop, alike):
    a = align.align(normal(seed, n, 3), normal(seed + 1, m, 3), partial=partial, drop=drop, alike=alike)
    assert (np.diff(a.path, axis=0) >= 0).all() and len(a.path) and 0 < align.ALIKE <= 100
    assert np.array_equal(np.flatnonzero(a.partners() >= 0), np.unique(a.path[:, 0]))
    if not drop: assert (np.diff(a.path, axis=0) <= 1).all()  # nothing is left out inside
    for bad in (nan, -1, 101): refuses(lambda: align.align(normal(seed, n, 3), normal(seed + 1, m, 3), partial=True, alike=bad), bad)


@of('align', 'LongAlignment', 'MOST_PAIRS', 'check_pairs', 'align')
@given(SEED, st.integers(2, 60), st.integers(2, 60), KIND, st.booleans())
def test_align_near_a_coarse_path(seed, n, m, kind, center):
    x, y = normal(seed, n, 3), normal(seed + 1, m, 3)
    whole = align.align(x, y, kind, center)
    with patch.object(align, 'MOST_PAIRS', 1):
        near = align.align(x, y, kind, center, 'clip', 'other')
        refuses(lambda: align.align(x, y, kind, center, 'clip', 'other', partial=True), f'clip of {n} frames and other of {m}')
    assert isinstance(near, align.LongAlignment) and not isinstance(whole, align.LongAlignment)
    assert np.array_equal(near.path, whole.path) and near.at_edge == 0  # so short that the windows leave nothing out
    for a, b in ((near, whole), (near.inverse(), whole.inverse())):
        assert a.shape == b.shape and a.value == pytest.approx(b.value, abs=1e-5) and np.array_equal(a.partners(), b.partners()) and np.allclose(a.partner_costs(), b.partner_costs(), atol=1e-5)
    for path in ([[0, 0], [n, 0]], [[1, 1], [0, 0]], []): refuses(lambda: replace(near, path=np.array(path, int)), near.shape)
    align.check_pairs(n, m, 'clip', 'other')
    with patch.object(align, 'MOST_PAIRS', n*m - 1): refuses(lambda: align.check_pairs(n, m, 'clip', 'other'), f'clip of {n} frames')


@of('align', 'directions')
@given(SEED, st.integers(2, 9), st.booleans(), st.sampled_from((1e-100, 1., 1e100)))
def test_directions(seed, n, center, scale):
    x = normal(seed, n, 3)
    assert np.allclose(align.directions(x*scale, center, 'clip'), unit(x - x.mean(0) if center else x)) and not align.directions(np.zeros((n, 3)), center, 'clip').any()
    for bad in (nan, inf, -inf, 1e200): refuses(lambda: align.directions(np.where(np.arange(n)[:, None] == 1, bad, x), center, 'clip'), 'clip: the embedding of frame 1')


@of('side_by_side', 'PHASE_COLORS', 'images_of', 'phase_rgb', 'synchronise', 'write_side_by_side')
@settings(max_examples=5)
@given(SEED, st.integers(2, 4), st.integers(2, 4), st.sampled_from(('reference', 'path')))
def test_side_by_side(tmp_path_factory, seed, n, m, mode):
    x, y = (Video(s, rng_at(seed, s).integers(0, 256, (k, 6, 8, 3), np.uint8), np.arange(k)*100) for s, k in (('x', n), ('y', m)))
    a = align.align(normal(seed, n, 2), normal(seed + 1, m, 2))
    pictures = list(side_by_side.synchronise(x, y, a, mode, height=16))
    assert len(pictures) == (n if mode == 'reference' else len(a.path)) and {p.shape for p in pictures} == {pictures[0].shape} and all(s % 2 == 0 for s in pictures[0].shape[:2])
    assert np.array_equal(side_by_side.images_of(x, np.array([n - 1, 0])), x.frames[[n - 1, 0]])
    refuses(lambda: side_by_side.images_of(Video('features', np.zeros((n, 4))), np.array([0])), '(1, 4)')
    for bad in (0, -2, 3, nan): refuses(lambda: side_by_side.synchronise(x, y, a, mode, bad), bad)
    refuses(lambda: side_by_side.synchronise(x, x if n != m else Video('z', np.zeros((m + 1, 6, 8, 3), 'u1')), a, mode), (n, m))
    path = tmp_path_factory.getbasetemp()/'side.mp4'
    assert side_by_side.write_side_by_side(path, x, y, a, mode=mode, height=16, progress=False) == path
    for bad in (0, -1, nan, inf): refuses(lambda: side_by_side.write_side_by_side(path, x, y, a, bad, progress=False), bad)
    assert side_by_side.phase_rgb(np.array([0, 8, 10**9])).shape == (3, 3) and len(side_by_side.PHASE_COLORS) == 8


# Settings out of their range
x5, rng0 = torch.zeros(1, 5, 2), rng_at(0)
SETTINGS = {
    'time_augment region': (lambda v: sampling.time_augment(9, 4, rng0, region=v), (nan, inf, -1, .5)),
    'time_augment offset': (lambda v: sampling.time_augment(9, 4, rng0, np.arange(4), consistent_offset=v), (nan, inf, -1, 2)),
    'positive_pairs window': (lambda v: sampling.positive_pairs(9, 4, rng0, window=v), (nan, inf, 0, -1, 1.5)),
    'draw_ssl strength': (lambda v: augment.draw_ssl(rng0, 8, 8, v), (nan, inf, -1)),
    'blur sigma': (lambda v: augment.blur_matrix(5, v), (nan, inf, 0, -1, 1e-30)),
    'joints rotate': (lambda v: augment.augment_joints(torch.zeros(1, 2, 26), [rng0], rotate=v), (nan, inf, -1)),
    'joints jitter': (lambda v: augment.augment_joints(torch.zeros(1, 2, 26), [rng0], jitter=v), (nan, inf, -1)),
    'soft_dtw gamma': (lambda v: softdtw.soft_dtw(np.zeros((2, 2)), v), (nan, inf, 0, -1, 1e-30)),
    'from_embs gamma': (lambda v: softdtw.soft_dtw_from_embs(np.zeros((2, 2)), np.zeros((2, 2)), v), (nan, inf, 0, -1)),
    'dtw_table gamma': (lambda v: gta.dtw_table(torch.zeros(1, 2, 2), torch.tensor([[2, 2]]), v), (nan, 0, -1)),
    'partial drop': (lambda v: partial_.partial_path(np.zeros((2, 3)), v), (nan, -1)),
    'partial skip': (lambda v: partial_.partial_path(np.zeros((2, 3)), None, 'x', skip=v), (nan, inf, -1)),
    'drop_cost percentile': (lambda v: partial_.drop_cost(np.zeros((2, 3)), v), (nan, inf, -1, 101)),
    'similarity temperature': (lambda v: priors.log_similarity(x5, x5, temperature=v), (nan, 0, -1)),
    'prior sigma2': (lambda v: priors.log_prior(torch.arange(3), torch.arange(3), sigma2=v), (nan, 0, -1)),
    'idm window': (lambda v: idm.contrastive_idm(x5, torch.zeros(1, 5), torch.ones(1, 5, dtype=torch.bool), window=v), (nan, -1)),
    'idm margin': (lambda v: idm.contrastive_idm(x5, torch.zeros(1, 5), torch.ones(1, 5, dtype=torch.bool), margin=v), (nan, 0, -1)),
    'idm scale': (lambda v: idm.contrastive_idm(x5, torch.zeros(1, 5), torch.ones(1, 5, dtype=torch.bool), scale=v), (nan, 0, -1)),
    'classification fraction': (lambda v: metrics.phase_classification(*videos(0), *videos(0), v), (nan, inf, 0, 2)),
    'progression phases': (lambda v: metrics.phase_progression(*videos(0), *videos(0), v), (nan, inf, 1, 3.5, 10**9)),
    'tau stride': (lambda v: metrics.kendalls_tau(videos(0)[0], v), (nan, inf, 0, -1, 1.5)),
    'precision k': (lambda v: metrics.average_precision(*videos(0), v), (nan, inf, 0, -1, 1.5, 999)),
    **{f'{name} {key}': (partial(lambda f, key, v: f(*batch(0), **{key: v}), f, key), values) for name, f, key, values in (
        ('lrprop', lrprop.lrprop, 'sigma2', (nan, 0, -1)), ('lrprop', lrprop.lrprop, 'temperature', (nan, 0, -1)), ('lrprop', lrprop.lrprop, 'gamma', (nan, inf, 0, -1)), ('lrprop', lrprop.lrprop, 'reach', (nan, -1)),
        ('scl', scl.scl, 'sigma2', (nan, 0, -1)), ('scl', scl.scl, 'temperature', (nan, 0, -1)), ('tcc', tcc.tcc, 'temperature', (nan, 0, -1)), ('tcc', tcc.tcc, 'n_cycles', (0, -1)), ('tcn', tcn.tcn, 'reg_weight', (nan, -1)),
        ('lav', lav.lav, 'gamma', (nan, inf, 0, -1)), ('lav', lav.lav, 'sigma', (nan, -1)), ('tcc', tcc.tcc, 'huber_delta', (nan, 0, -1)), ('tcc', tcc.tcc, 'label_smoothing', (nan, -1, 1)), ('gta', gta.gta, 'label_smoothing', (nan, -1, 1)),
        *(('vava', vava.vava, key, (nan, 0, -1)) for key in ('delta', 'lambda2', 'margin', 'temperature')), ('vava', vava.vava, 'window', (nan, -1)), ('lav', lav.lav, 'margin', (nan, 0, -1)), ('gta', gta.gta, 'gamma', (nan, 0, -1)), ('gta', gta.gta, 'temperature', (nan, 0, -1)))},
}


@pytest.mark.parametrize('name', list(SETTINGS))
def test_settings_out_of_range_are_named(name):
    call, values = SETTINGS[name]
    for value in values: refuses(lambda: call(value), value)


def test_every_public_name_is_covered():
    "A new public function needs a property here."
    public = {(m, n) for m in MODULES for n in import_module(f'lrprop.{m}').__all__}
    assert {f'{m}.{n}' for m, n in public - COVERED} == set() == {f'{m}.{n}' for m, n in COVERED - public}
