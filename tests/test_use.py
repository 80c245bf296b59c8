"""The commands for people with their own videos, from a shell: what they write is there, right, and never in the place of something else."""
import csv
import json

import numpy as np
import pytest
from PIL import Image

from clips import contents, moving_square, write_clips
from commands import call
from lrprop.experiments import Experiment
from lrprop.phases import read_phases
from lrprop.video import VideoFile
from lrprop.writing import write_video

FRAMES, SPEEDS = dict(even=40, warped=52, slow=46), dict(even=1., warped=1.5, slow=.7)
CLOCKS = {name: np.linspace(0, 1, n)**SPEEDS[name] for name, n in FRAMES.items()}
FROZEN = 'embedded by frozen features of efficientnet_lite0_grid (no model given)'


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "A square on its way at three paces; the same, spoilt; a run trained on them."
    folder = tmp_path_factory.mktemp('world')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LRPROP_CACHE', str(folder/'cache'))
        for name in ('clips', 'spoilt'): (folder/name).mkdir()
        for name, n in FRAMES.items(): write_video(folder/f'clips/{name}.mp4', moving_square(n, SPEEDS[name], 0), fps=20, crf=10)
        frames = [*moving_square(40, 1., 0)]
        noise = [np.random.default_rng(i).integers(0, 255, frames[0].shape).astype('uint8') for i in range(10)]
        write_video(folder/'spoilt/late.mp4', frames[12:], fps=20, crf=10)
        write_video(folder/'spoilt/stranger.mp4', [*frames[:20], *noise, *frames[20:]], fps=20, crf=10)
        yield folder


def rows(path):
    with open(path, newline='') as file: return list(csv.DictReader(file))


def test_a_table_follows_the_known_warp(world):
    said = call('align', world/'clips/even.mp4', world/'clips/warped.mp4', world/'clips/slow.mp4', '-o', world/'table.csv', '--device', 'cpu')
    assert FROZEN in said and f'wrote {world}/table.csv' in said and 'reference: even (40 frames, 2.00 s)' in said
    table, record = rows(world/'table.csv'), json.loads((world/'table.json').read_text())
    assert [int(r['frame']) for r in table] == list(range(40)) and float(table[7]['time']) == 7/20
    for found in record['clips']:
        name = found['name']
        partners = np.array([int(r[f'{name}_frame']) for r in table])
        assert (np.diff(partners) >= 0).all() and np.abs(CLOCKS[name][partners] - CLOCKS['even']).max() < 2/39
        assert np.allclose([float(r[f'{name}_time']) for r in table], partners/20, rtol=1e-5)
        assert (found['n_frames'], found['left_out'], found['reference_left_out']) == (FRAMES[name], [], [])
        assert 0 < found['mean_cost'] < 1 and f'{name} ({FRAMES[name]} frames, {FRAMES[name]/20:.2f} s): mean cost {found["mean_cost"]:.3f}' in said
    assert record['source'] in FROZEN and record['options'] == dict(partial=False, drop=False, alike=50., kind='euclidean')
    assert min(Image.open(world/'table.png').size) > 300


def test_long_clips_near_a_coarse_path(world, monkeypatch):
    "Where not all pairs can be looked at, what is written is the same, and says that it may not be the best of all."
    clips = [world/f'clips/{name}.mp4' for name in FRAMES]
    call('align', *clips, '-o', world/'short.csv', '--device', 'cpu')
    monkeypatch.setattr('lrprop.align.MOST_PAIRS', 40*46 - 1)
    said = call('align', *clips, '-o', world/'long.csv', '--device', 'cpu')
    assert said.count('too many to look at all: the best path within 16 steps of a coarse one, a step 10 frames') == 2
    assert (world/'long.csv').read_bytes() == (world/'short.csv').read_bytes() and min(Image.open(world/'long.png').size) > 300
    short, long = (json.loads((world/f'{name}.json').read_text())['clips'] for name in ('short', 'long'))
    assert [c.pop('windows') for c in short] == [None]*2 and [c.pop('windows') for c in long] == [dict(factor=10, radius=16, at_edge=0)]*2
    for a, b in zip(short, long): assert a.pop('mean_cost') == pytest.approx(b.pop('mean_cost'), rel=1e-6) and a == b
    before = contents(world)
    for option in ('--partial', '--drop'): assert 'even of 40 frames and warped of 52' in call('align', *clips, '-o', world/'refused.csv', option, '--device', 'cpu', status=1)
    assert contents(world) == before


def test_a_film_and_a_page(world):
    clips = [world/f'clips/{name}.mp4' for name in FRAMES]
    call('align', *clips, '--out', world/'film.mp4', '--height', 64, '--device', 'cpu')
    film = VideoFile(world/'film.mp4')
    assert film.shape[0] == 40 and film.fps == 20
    places = [0, 86 + 4, 2*(86 + 4)]  # 64 × 48 pictures at a height of 64 are 86 wide
    for k in (0, 13, 26, 39):
        bright = [film[k][:40, left:left + 86, 0] > 180 for left in places]
        at = [b.nonzero()[1].mean() for b in bright]
        assert max(at) - min(at) <= 5  # the three squares are at the same place
    call('align', *clips, '-o', world/'page.html', '--reference', 'slow', '--device', 'cpu')
    page = (world/'page.html').read_text()
    assert page.startswith('<!') and page.count('<script type="image/jpeg">') == 3
    assert json.loads((world/'page.json').read_text())['reference']['name'] == 'slow'


def test_frames_that_belong_to_nothing(world):
    said = call('align', world/'clips/even.mp4', world/'spoilt/late.mp4', world/'spoilt/stranger.mp4', '-o', world/'spoilt.csv', '--partial', '--drop', '--device', 'cpu')
    late, stranger = json.loads((world/'spoilt.json').read_text())['clips']
    (first, last), = late['reference_left_out']
    assert first == 0 and abs(last - 11) <= 2 and late['left_out'] == []
    assert any(abs(a - 20) <= 1 and abs(b - 29) <= 1 for a, b in stranger['left_out'])
    assert f'left out of even: frames 0-{last} (0.00-{last/20:.2f} s)' in said
    table = rows(world/'spoilt.csv')
    assert all((r['late_frame'] == '') == (r['late_time'] == '') == (r['late_cost'] == '') == (int(r['frame']) <= last) for r in table)
    kept = [(int(r['frame']), int(r['late_frame']) + 12) for r in table if r['late_frame']]
    assert max(abs(k - i) for k, i in kept) <= 2


def test_phases_from_one_clip(world):
    bounds = {name: int((clock < .5).sum()) for name, clock in CLOCKS.items()}
    said = call('transfer', 'even', '--phases', '1s', world/'clips', '-o', world/'phases.csv', '--device', 'cpu')
    assert FROZEN in said and '2 clips got 2 phases each, along 2 ways' in said
    table, record = read_phases(world/'phases.csv'), json.loads((world/'phases.json').read_text())
    assert {name: len(row.starts) for name, row in table.items()} == dict.fromkeys(FRAMES, 2) and table['even'].starts == (0, 20)
    assert all(abs(table[name].starts[1] - bound) <= 2 for name, bound in bounds.items())
    assert sum(row.split == 'val' for row in table.values()) == 1  # two of three are trained on
    for clip in record['clips']:
        assert clip['starts'] == list(table[clip['name']].starts) and clip['given'] == (clip['name'] == 'even')
        if not clip['given']: assert 0 <= clip['confidence'][0] <= 1 and clip['spread'][0] >= 0 and clip['starts_seconds'][1] == clip['starts'][1]/20
    assert min(Image.open(world/'phases.png').size) > 90
    call('prepare', 'folder', '--source', world/'clips', '--root', world/'prepared', '--phases', world/'phases.csv')
    call('transfer', world/'clips/warped.mp4', world/'prepared', '--phases', world/'phases.csv', '-o', world/'back.csv', '--device', 'cpu')
    assert abs(read_phases(world/'back.csv')['even'].starts[1] - 20) <= 2


def test_training_on_a_folder_chooses_what_is_not_given(world):
    folder = write_clips(world/'to_train', 24)
    said = call('train', folder, '--n-epochs', 1, '--method', 'scl', '--device', 'cpu', '--out', world/'run')
    assert 'Chosen:' in said and 'n_frames 24' in said and 'lr       0.0003' in said and 'n_epochs 1 ' not in said and f'--model {world/"run"}' in said
    assert f'how the loss fell in {world/"run"}/losses.png' in said and min(Image.open(world/'run/losses.png').size) > 200
    assert 'losses.png' not in call('train', '--dataset', 'folder', '--root', folder, '--method', 'time', '--out', world/'untrained') and not (world/'untrained/losses.png').exists()
    old = ('--n-epochs', 1, '--method', 'scl', '--device', 'cpu', '--n-frames', 24, '--lr', 3e-4)
    assert 'Chosen' not in call('train', '--dataset', 'folder', '--root', folder, *old, '--out', world/'old_form')
    config, other = (json.loads((world/f/'config.json').read_text()) for f in ('run', 'old_form'))
    assert config == other and (config['n_frames'], config['lr'], config['n_epochs'], config['sigma2']) == (24, 3e-4, 1, 10.)
    said = call('align', folder/'0.mp4', folder/'3.mp4', '-o', world/'trained.csv', '--model', world/'run', '--device', 'cpu')
    assert f'embedded by {world/"run"}' in said and len(rows(world/'trained.csv')) == 24


def test_the_old_form_is_the_experiment_it_was(monkeypatch):
    seen = []
    def stop(experiment, *more, **how):
        seen.append(experiment)
        raise ValueError('stopped')
    monkeypatch.setattr('lrprop.runs.run', stop)
    call('train', status=1)
    call('train', '--dataset', 'penn_joints', '--root', '/data', '--action', 'pushup', '--method', 'scl', '--lr', '1e-3', '--n-epochs', 7, status=1)
    assert seen == [Experiment(), Experiment(dataset='penn_joints', root='/data', action='pushup', method='scl', lr=1e-3, n_epochs=7)]


def test_errors_come_first_and_touch_nothing(world):
    even, warped = world/'clips/even.mp4', world/'clips/warped.mp4'
    for name in ('mine.mp4', 'a.png', 'b.json', 'c.csv'): (world/name).write_bytes(b'mine')
    before = contents(world, '*') | contents(world/'clips')
    for expected, *words in [
        ('mine.mp4: exists', 'align', even, warped, '-o', world/'mine.mp4'), ('a.png: exists', 'align', even, warped, '-o', world/'a.csv'),
        ('b.json: exists', 'align', even, warped, '-o', world/'b.html'), ("valid: .mp4, .mkv, .mov, .m4v, .html, .csv", 'align', even, warped, '-o', world/'d.gif'),
        ('1 video; valid: at least 2', 'align', even, '-o', world/'d.mp4'), ('0 videos; valid', 'align', '-o', world/'d.mp4'), ('even.mp4: is given twice', 'align', even, even, '-o', world/'d.mp4'),
        ("unknown reference 'fast'; valid: even, warped", 'align', even, warped, '-o', world/'d.mp4', '--reference', 'fast'), ('alike 200', 'align', even, warped, '-o', world/'d.mp4', '--alike', 200),
        ('mine.mp4: cannot be read as video', 'align', even, world/'mine.mp4', '-o', world/'d.mp4'), ('nowhere: no such file or folder', 'align', even, warped, '-o', world/'d.mp4', '--model', world/'nowhere'),
        ('c.csv: exists', 'transfer', 'even', world/'clips', '--phases', '20', '-o', world/'c.csv'), ('b.json: exists', 'transfer', 'even', world/'clips', '--phases', '20', '-o', world/'b.csv'),
        ('fast: is neither a file nor a video', 'transfer', 'fast', world/'clips', '--phases', '20', '-o', world/'d.csv'), ('from 1 to 39', 'transfer', 'even', world/'clips', '--phases', '90', '-o', world/'d.csv'),
        ("'x' in phases 'x' is neither a frame", 'transfer', 'even', world/'clips', '--phases', 'x', '-o', world/'d.csv'), ('missing column', 'transfer', 'even', world/'clips', '--phases', world/'c.csv', '-o', world/'d.csv'),
        ('leave it out, or --dataset pouring', 'train', world/'clips', '--dataset', 'pouring'), ('gone: no such folder', 'train', world/'gone'),
    ]: assert expected in call(*words, '--device', 'cpu', status=1)
    assert contents(world, '*') | contents(world/'clips') == before
