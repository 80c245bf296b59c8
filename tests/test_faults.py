"""What happens when things break: the result is that of an undisturbed run, or a clear error; nbs/98_faults.ipynb has the table. Kills of training, preparing and embedding: test_runs, test_embed, test_distributed."""
import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clips import contents
from commands import call
from lrprop.align import Alignment
from lrprop.backbone import Backbone
from lrprop.cache import cached_features, make_room, write_entry
from lrprop.checkpoint import DamagedFile, previous_checkpoint, save_encoder, save_tensors
from lrprop.core import Video, rng_at, seed_torch_at
from lrprop.dataset import load_prepared
from lrprop.embed import Model, embed_folder
from lrprop.encoder import Encoder
from lrprop.experiments import Experiment
from lrprop.formats import to_jpeg, write_folder_fixture
from lrprop.jpegs import JpegArchive, write_jpegs
from lrprop.losses.scl import scl
from lrprop.player import write_player
from lrprop.prepare import prepare
from lrprop.runs import run, write_json
from lrprop.tables import SETTINGS
from lrprop.tfrecord import write_records
from lrprop.trainer import fit
from lrprop.video import VideoFile
from lrprop.writing import write_video

PAGE = 4096  # Bytes that a file takes at least


@pytest.fixture
def disk(tmp_path):
    "A disk of 4 MB."
    folder = tmp_path/'disk'
    folder.mkdir()
    done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', str(folder)], capture_output=True, text=True, check=False) if shutil.which('mount') else None
    if done is None or done.returncode: pytest.skip(f'no right to mount a small disk ({done.stderr.strip() if done else "no mount command"})')
    yield folder
    subprocess.run(['umount', str(folder)], check=True)


def fill(disk, but=2*PAGE):
    "Take all room but some bytes; returns the file that takes it."
    (disk/'filler').write_bytes(bytes(max(0, shutil.disk_usage(disk).free - but)))
    return disk/'filler'


class Stop(Exception): pass


def train(checkpoint, stop_after=None):
    "A small training of three epochs, which may stop after some."
    def log(record):
        if record['epoch'] + 1 == stop_after: raise Stop
    seed_torch_at(0, 'weights')
    encoder = Encoder(in_dim=4, n_frames=8, depth=1, hidden_dim=16, dim=16, emb_dim=8)
    videos = [Video(f'v{i}', rng_at(i).normal(size=(12, 4)).cumsum(0).astype('f4')) for i in range(4)]
    with contextlib.suppress(Stop): fit(encoder, scl, videos, 8, n_epochs=3, lr=1e-3, checkpoint=checkpoint, config=dict(T=8), checkpoint_minutes=0, log=log)


def embs_of(video):
    "In place of a network."
    x = video.frames[np.arange(len(video))].astype('f4').mean((1, 2))
    return x/np.linalg.norm(x, axis=1, keepdims=True)


MODEL = Model(embs_of, 16, dict(sha256='0'*64, backbone='none', backbone_sha256=None, center=False, emb_dim=3))
def embed(folder, out, **more): return embed_folder(folder, MODEL, out, progress=False, **more)
def left_over(folder): return [p.name for p in Path(folder).rglob('.*') if p.is_file() and p.suffix != '.lock']


# A full disk
FRAMES = rng_at('faults').integers(0, 256, (20, 64, 64, 3)).astype('u1')
LINE = Alignment(np.stack([np.arange(900)]*2, 1), np.eye(900))
WRITERS = {
    'checkpoint.pt': lambda path: save_tensors(path, dict(x=torch.zeros(20_000))),
    'encoder.safetensors': lambda path: save_encoder(path, Encoder(in_dim=4, n_frames=8, depth=1, hidden_dim=32, dim=32, emb_dim=16)),
    'record.json': lambda path: write_json(path, dict(x='y'*50_000)),
    'video.mp4': lambda path: write_video(path, FRAMES),
    'archive.zip': lambda path: write_jpegs(path, map(to_jpeg, FRAMES)),
    'records.tfrecord': lambda path: write_records(path, [bytes(50_000)]),
    'page.html': lambda path: write_player(path, [Video(n, FRAMES) for n in 'ab'], [Alignment(np.stack([np.arange(20)]*2, 1), np.eye(20))], progress=False),
    'path.csv': LINE.to_csv,
    'ab.npy': lambda path: write_entry(path, np.zeros((100, 100), 'f4')),
}


@pytest.mark.parametrize('name', list(WRITERS))
def test_full_disk_for_every_writer(disk, name):
    "The error names the place; what was there stays, nothing half-written is left, and with room the same call does it."
    path = disk/name
    path.write_bytes(b'before')
    filler = fill(disk)
    with pytest.raises(OSError, match='No space left on device') as caught: WRITERS[name](path)
    assert caught.value.errno == errno.ENOSPC and str(path if name != 'ab.npy' else disk.parent) in str(caught.value)
    assert path.read_bytes() == b'before' and not left_over(disk)
    filler.unlink()
    WRITERS[name](path)
    assert path.stat().st_size > 1000


def test_full_disk_while_training(disk, tmp_path):
    "It stops and says so; the last checkpoint is whole; with room, the same call ends with the bytes of an undisturbed run."
    train(tmp_path/'straight.pt')
    train(disk/'run.pt', 1)
    before, filler = (disk/'run.pt').read_bytes(), fill(disk)
    with pytest.raises(OSError, match=r'No space left on device.*run\.pt'): train(disk/'run.pt')
    assert (disk/'run.pt').read_bytes() == before and not left_over(disk)
    filler.unlink()
    train(disk/'run.pt')
    assert (disk/'run.safetensors').read_bytes() == (tmp_path/'straight.safetensors').read_bytes()


@pytest.mark.parametrize('on_error', ['raise', 'skip'])
def test_full_disk_while_preparing(disk, tmp_path, on_error):
    "No video is taken for a bad one; with room, the same call ends with the bytes of an undisturbed one."
    write_folder_fixture(tmp_path/'source', 6)
    do = partial(prepare, 'folder', tmp_path/'source', copy=True, on_error=on_error, progress=False)
    do(root=tmp_path/'straight')
    filler = fill(disk, 4*PAGE)
    with pytest.raises(OSError, match='No space left on device'): do(root=disk)
    with pytest.raises(FileNotFoundError, match='lrprop prepare'): load_prepared(disk/'folder')
    filler.unlink()
    assert do(root=disk).n_videos == 6 and contents(disk/'folder') == contents(tmp_path/'straight/folder')


def test_full_disk_while_embedding(disk, tmp_path):
    write_folder_fixture(tmp_path/'clips', 6, labelled=False)
    embed(tmp_path/'clips', tmp_path/'straight')
    filler = fill(disk, 3*PAGE)
    with pytest.raises(OSError, match='No space left on device'): embed(tmp_path/'clips', disk/'embs', on_error='skip')
    filler.unlink()
    assert embed(tmp_path/'clips', disk/'embs').n_videos == 6 and contents(disk/'embs') == contents(tmp_path/'straight')


def test_read_only_output(disk, tmp_path):
    "An error that names the place, and nothing is left."
    write_folder_fixture(tmp_path/'clips', 6)
    subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
    for write_there in (*(partial(write, disk/name) for name, write in WRITERS.items()), lambda: embed(tmp_path/'clips', disk/'embs'), lambda: prepare('folder', tmp_path/'clips', disk, progress=False),
                 lambda: train(disk/'run.pt'), lambda: run(Experiment('time', dataset='folder', root=str(tmp_path/'clips'), n_frames=8), disk/'run', device='cpu')):
        with pytest.raises(OSError, match='Read-only file system') as caught: write_there()
        assert str(disk) in str(caught.value)
    assert list(disk.iterdir()) == []


# Input
def test_vanished_input(tmp_path):
    "The error names the file that is gone; what is left can be had."
    write_folder_fixture(tmp_path/'clips', 4, labelled=False)
    root = prepare('folder', tmp_path/'clips', tmp_path/'root', copy=True, progress=False).folder
    videos, opened = load_prepared(root), VideoFile(tmp_path/'clips/clip0.mp4')
    archive = JpegArchive(write_jpegs(tmp_path/'a.zip', map(to_jpeg, FRAMES)))
    for path, read in ((root/'videos/clip1.mp4', lambda: videos[1].frames[[0]]), (tmp_path/'clips/clip0.mp4', lambda: opened[[0]]), (tmp_path/'a.zip', lambda: archive[[0]])):
        path.unlink()
        with pytest.raises(FileNotFoundError, match=path.name): read()
    with pytest.raises(FileNotFoundError, match=r'clip1\.mp4: no such file, though the index lists it'): load_prepared(root)
    done = embed(root, tmp_path/'embs', on_error='skip')
    assert done.n_videos == 3 and 'clip1.mp4: no such file' in done.left_out[0].error and set(contents(tmp_path/'embs')) == {'clip0.npy', 'clip2.npy', 'clip3.npy', 'index.json', 'embeddings.png'}
    shutil.rmtree(root)
    with pytest.raises(FileNotFoundError, match='no such'): load_prepared(root)


def test_changed_input(tmp_path):
    "A prepared file that is not what was prepared is refused: by its size, or when verified."
    write_folder_fixture(tmp_path/'clips', 3, labelled=False)
    root = prepare('folder', tmp_path/'clips', tmp_path/'root', copy=True, progress=False).folder
    path = root/'videos/clip0.mp4'
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r'clip0\.mp4: has SHA-256'): load_prepared(root, verify=True)
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r'clip0\.mp4: has .* bytes, the index says'): load_prepared(root)


class Means(nn.Module):
    def forward(self, x): return x.mean((-1, -2)).repeat(1, 2)


@pytest.mark.parametrize('damage', ['a bit', 'cut off', 'empty', 'header', 'longer', 'another shape'])
def test_corrupted_cache_entry(tmp_path, damage):
    "A warning, and the features are computed again: the same."
    backbone = Backbone('means', Means(), 16, (0, 0, 0), (1, 1, 1), 6)
    video = Video('clip', FRAMES)
    first = np.array(cached_features(video, backbone, tmp_path).frames)
    entry, = tmp_path.rglob('*.npy')
    data = bytearray(entry.read_bytes())
    if damage == 'a bit': data[200] ^= 1
    elif damage == 'header': data[20] ^= 4
    elif damage == 'another shape': write_entry(entry, first[:5]); data = bytearray(entry.read_bytes())
    else: data = {'cut off': data[:-40], 'empty': b'', 'longer': data + b'x'}[damage]
    entry.unlink()
    entry.write_bytes(data)
    with pytest.warns(UserWarning, match='is damaged: its features are computed again'): again = cached_features(video, backbone, tmp_path).frames
    assert np.array_equal(first, again)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert np.array_equal(first, cached_features(video, backbone, tmp_path).frames)


def test_damaged_checkpoint(tmp_path):
    "A warning, and training goes on from the one before: the same bytes in the end. If both are damaged, an error that says what to delete."
    train(tmp_path/'straight.pt')
    train(tmp_path/'run.pt', 2)
    data = bytearray((tmp_path/'run.pt').read_bytes())
    data[len(data)//2] ^= 255
    (tmp_path/'run.pt').write_bytes(data)
    with pytest.warns(UserWarning, match='falling back to the checkpoint before it'): train(tmp_path/'run.pt')
    assert (tmp_path/'run.safetensors').read_bytes() == (tmp_path/'straight.safetensors').read_bytes()
    for path in (tmp_path/'run.pt', previous_checkpoint(tmp_path/'run.pt')): path.write_bytes(data)
    with pytest.raises(DamagedFile, match='delete both to start anew'): train(tmp_path/'run.pt')


def test_damaged_record(tmp_path):
    "An error that names the file."
    write_folder_fixture(tmp_path/'clips', 6)
    e = Experiment('time', dataset='folder', root=str(tmp_path/'clips'), n_frames=8)
    record = run(e, tmp_path/'run', device='cpu')
    (tmp_path/'run/result.json').write_text(json.dumps(record)[:-20])
    with pytest.raises(ValueError, match=r'result\.json is damaged'): run(e, tmp_path/'run', device='cpu')
    (tmp_path/'run/result.json').unlink()
    assert run(e, tmp_path/'run', device='cpu')['scores'] == record['scores']


# Several at once
HOLD = '''
import sys, time
from pathlib import Path
from {module} import _alone
with _alone(Path(sys.argv[1])):
    print('held', flush=True)
    time.sleep(600)
'''


def holding(module, folder):
    process = subprocess.Popen([sys.executable, '-c', HOLD.format(module=module), str(folder)], stdout=subprocess.PIPE, text=True, env=os.environ | dict(PYTHONPATH=str(Path(__file__).parent.parent)))
    assert process.stdout.readline() == 'held\n'
    return process


def test_two_runs_on_one_folder(tmp_path):
    "The second says that another process is there, for runs as for preparing; when that is killed, it goes on."
    write_folder_fixture(tmp_path/'clips', 6)
    (tmp_path/'root/folder').mkdir(parents=True)
    calls = {('lrprop.runs', tmp_path/'run'): lambda: run(Experiment('time', dataset='folder', root=str(tmp_path/'clips'), n_frames=8), tmp_path/'run', device='cpu'),
             ('lrprop.prepare', tmp_path/'root/folder'): lambda: prepare('folder', tmp_path/'clips', tmp_path/'root', progress=False)}
    for (module, folder), begin in calls.items():
        holder = holding(module, folder)
        try:
            with pytest.raises(ValueError, match='another process is'): begin()
        finally: holder.send_signal(signal.SIGKILL); holder.wait()
        begin()


def test_two_embeddings_of_one_folder(tmp_path):
    "At once into one folder: whole files, the same bytes."
    write_folder_fixture(tmp_path/'clips', 8, labelled=False)
    embed(tmp_path/'clips', tmp_path/'straight')
    code = f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_faults import embed; embed({str(tmp_path/"clips")!r}, {str(tmp_path/"both")!r})'
    both = [subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.PIPE, text=True, env=os.environ | dict(PYTHONPATH=str(Path(__file__).parent.parent))) for _ in range(2)]
    said = [p.communicate(timeout=300)[1] for p in both]
    assert all(p.returncode == 0 for p in both), said
    assert embed(tmp_path/'clips', tmp_path/'both').n_new == 0 and contents(tmp_path/'both') == contents(tmp_path/'straight')


def test_a_worker_killed_in_reproduce(tmp_path, monkeypatch):
    "One line names the runs that were under way and what to do; the same command goes on, and the records have the scores of an undisturbed one."
    monkeypatch.setitem(SETTINGS, 'synthetic', dict(n_epochs=1, n_train=2, n_val=2, n_frames=8, depth=1, n_variants=0))
    monkeypatch.setenv('LRPROP_CACHE', str(tmp_path/'cache'))
    def do(name, jobs, status=0): return call('reproduce', 'table1', '--methods', 'time', 'chance', '--seeds', 1, '--results', tmp_path/name/'results', '--runs', tmp_path/name/'runs', '--device', 'cpu', '--jobs', jobs, status=status)
    do('straight', 1)
    def kill():
        while not list(tmp_path.glob('killed/runs/.*.lock')): time.sleep(.001)
        for p in Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):
                if f'PPid:\t{os.getpid()}\n' in (p/'status').read_text() and b'loky' in (p/'cmdline').read_bytes() and b'resource_tracker' not in (p/'cmdline').read_bytes(): os.kill(int(p.name), signal.SIGKILL)
    killer = threading.Thread(target=kill)
    killer.start()
    said = do('killed', 2, status=1)
    killer.join()
    assert re.fullmatch(r'lrprop: a worker process was killed, .* under way: .*synthetic-pouring-.*\. Run the same command again: it goes on', said), said
    do('killed', 2)
    def scores(name): return {p.name: json.loads(p.read_text())['scores'] for p in (tmp_path/name/'results').rglob('*.json')}
    assert len(scores('killed')) == 2 and scores('killed') == scores('straight') and not left_over(tmp_path/'killed')


# Time
def test_the_clock_goes_back(tmp_path, monkeypatch):
    "By an hour at every look: training, embedding and the cache do what they would."
    train(tmp_path/'straight.pt')
    write_folder_fixture(tmp_path/'clips', 4, labelled=False)
    embed(tmp_path/'clips', tmp_path/'straight')
    clock = [time.time()]
    def back(): clock[0] -= 3600; return clock[0]
    monkeypatch.setattr(time, 'time', back)
    monkeypatch.setattr(time, 'time_ns', lambda: int(back()*1e9))
    train(tmp_path/'run.pt', 1)
    train(tmp_path/'run.pt')
    assert (tmp_path/'run.safetensors').read_bytes() == (tmp_path/'straight.safetensors').read_bytes()
    embed(tmp_path/'clips', tmp_path/'run')
    assert contents(tmp_path/'run') == contents(tmp_path/'straight')
    backbone, cache = Backbone('means', Means(), 16, (0, 0, 0), (1, 1, 1), 6), tmp_path/'cache'
    features = [np.array(cached_features(Video(str(i), FRAMES[i:]), backbone, cache).frames) for i in range(3)]
    for i in range(3): assert np.array_equal(cached_features(Video(str(i), FRAMES[i:]), backbone, cache).frames, features[i])
    held = sum(p.stat().st_size for p in cache.rglob('*.npy'))
    assert make_room(cache, held) == held and make_room(cache, held - 1) < held and len(list(cache.rglob('*.npy'))) == 2
