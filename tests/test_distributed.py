"One run on several processes, started as users start them: the steps of one process, whoever launches."
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torchvision.models.resnet import Bottleneck, ResNet

from clips import write_clips
from commands import BIN, COMMAND
from lrprop.augment import ssl_augment
from lrprop.backbone import PaperBackbone
from lrprop.core import Video, seed_torch_at
from lrprop.encoder import Encoder
from lrprop.losses.lrprop import lrprop
from lrprop.losses.sal import SAL
from lrprop.store import store_videos
from lrprop.trainer import fit

LOSSES = dict(lrprop=(lambda: lrprop, 'projection'), sal=(lambda: SAL(16).double(), 'raw'))


def train(path, loss='lrprop', n_epochs=3, dtype=torch.float64, **settings):
    "A short run in double precision, so that only a wrong step can differ; with dropout, ragged clips, random augmentation."
    rng = np.random.default_rng(0)
    videos = [Video(f'v{i}', rng.normal(size=(9 + 3*i, 4)).cumsum(0).astype('float32')) for i in range(8)]
    seed_torch_at(0, 'weights')
    encoder, (make, output) = Encoder(in_dim=4, n_frames=16, depth=1, hidden_dim=32, dim=32, emb_dim=16).to(dtype), LOSSES[loss]
    def augment(x, rngs): return x.to(dtype) + torch.tensor([r.normal() for r in rngs], dtype=dtype)[:, None, None]
    return fit(encoder, make(), videos, 16, n_videos=4, n_epochs=n_epochs, lr=1e-3, augment=augment, output=output, checkpoint=Path(path), config={}, **settings)


def small_backbone():
    "The paper's, of a ResNet with one thin block a stage: checkpoints of ResNet-50 would fill the disk."
    seed_torch_at(0, 'backbone')
    with patch('lrprop.backbone.load_resnet50', lambda *_: ResNet(Bottleneck, [1]*4, width_per_group=8)): return PaperBackbone(sub_batch=8).double()


def train_on_images(path, loss='lrprop', n_epochs=2, augment=lambda x, rngs: ssl_augment(x, rngs, size=32), **settings):
    "The same of images that pass a ResNet at every step, eight at a time: decoded into memory, augmented, layer4 trained."
    rng = np.random.default_rng(0)
    videos = store_videos([Video(f'v{i}', rng.integers(0, 256, (9 + i, 40, 36, 3), dtype='uint8')) for i in range(8)], size=40, desc='')
    backbone, (make, output) = small_backbone(), LOSSES[loss]
    seed_torch_at(0, 'weights')
    encoder = Encoder(in_dim=2048, n_frames=4, depth=1, hidden_dim=32, dim=32, emb_dim=16, backbone=backbone).double()
    return fit(encoder, make(), videos, 4, n_videos=4, n_epochs=n_epochs, lr=1e-3, augment=lambda x, rngs: augment(x, rngs).double(), output=output, checkpoint=Path(path), config={}, **settings)


def environment(): return os.environ | dict(PYTHONPATH=os.pathsep.join((str(Path(__file__).parent), os.environ.get('PYTHONPATH', ''))), OMP_NUM_THREADS='1')
def torchrun(*words): return [str(w) for w in (BIN/'torchrun', '--standalone', '--nproc-per-node', 2, *words)]


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as s: return s.getsockname()[1]


def launch(command, fails=False, **settings):
    "Run a launcher; what it printed, and said."
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment(), check=False, **settings)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout, done.stderr


def program(folder, body):
    path = folder/'program.py'
    path.write_text('import json, os, sys\nfrom test_distributed import LOSSES, lrprop, ssl_augment, train, train_on_images\n' + body)
    return path


def largest_difference(a, b):
    a, b = ({f'{part}.{n}': x for part in ('encoder', 'loss') for n, x in s[part].items()} for s in (torch.load(p, weights_only=True) for p in (a, b)))
    assert a.keys() == b.keys()
    return max((a[n] - b[n]).abs().max().item() for n in a)


def test_two_processes_take_the_steps_of_one(tmp_path):
    "And a run of one process goes on with two."
    alone = {loss: train(tmp_path/f'{loss}.pt', loss) for loss in LOSSES}
    class Stop(Exception): pass
    def stop(record):
        if record['epoch'] == 1: raise Stop
    for loss in LOSSES:
        with pytest.raises(Stop): train(tmp_path/f'{loss}.both.pt', loss, checkpoint_minutes=0, log=stop)
    body = '''
for loss in ('lrprop', 'sal'):
    history = train(f'{sys.argv[1]}/{loss}.two.pt', loss, log=lambda r: print('logged by', os.environ['RANK']), evaluate=lambda e: dict(rank=float(os.environ['RANK'])), evaluate_every=3)
    train(f'{sys.argv[1]}/{loss}.both.pt', loss)
    open(f"{sys.argv[1]}/{loss}.{os.environ['RANK']}.json", 'w').write(json.dumps(history))
'''
    out, err = launch(torchrun(program(tmp_path, body), tmp_path))
    assert out.splitlines() == ['logged by 0']*6
    assert err.count('/6 [') == err.count('train:')  # bars of the first process alone
    for loss in LOSSES:
        first, second = (json.loads((tmp_path/f'{loss}.{r}.json').read_text()) for r in (0, 1))
        np.testing.assert_allclose([h['loss'] for h in first], [h['loss'] for h in alone[loss]], rtol=1e-10)
        assert [h['loss'] for h in first] == [h['loss'] for h in second] and first[-1]['rank'] == second[-1]['rank'] == 0
        for path in (f'{loss}.two.pt', f'{loss}.both.pt'): assert largest_difference(tmp_path/f'{loss}.pt', tmp_path/path) < 1e-9


STOPPED = '''
def stopped_and_resumed(train, path, at):
    "All processes stop in the middle of an epoch, after a checkpoint; a second call goes on."
    calls = iter(range(at + 1))
    def stopping(*batch):
        if next(calls) == at: raise InterruptedError
        return lrprop(*batch)
    LOSSES['stopping'] = (lambda: stopping), 'projection'
    try: train(path, 'stopping', checkpoint_minutes=0)
    except InterruptedError: return train(path)
'''


def test_stopped_and_resumed_on_two_processes(tmp_path):
    train(tmp_path/'alone.pt')
    launch(torchrun(program(tmp_path, STOPPED + "assert len(stopped_and_resumed(train, sys.argv[1], 3)) == 3"), tmp_path/'two.pt'))
    assert largest_difference(tmp_path/'alone.pt', tmp_path/'two.pt') < 1e-9


def test_training_on_images_on_two_processes(tmp_path):
    "2 × 2 videos move a ResNet as 1 × 4 do, stopped midway or not; each process fetches and augments its own videos alone."
    train_on_images(tmp_path/'alone.pt')
    body = STOPPED + '''
from lrprop.store import StoredFrames
seen, gather = [], StoredFrames.gather
def fetched(self, *args): seen.append(len(self)); return gather(self, *args)
def augment(x, rngs): seen.append([len(x), len(rngs)]); return ssl_augment(x, rngs, size=32)
StoredFrames.gather = fetched
train_on_images(f'{sys.argv[1]}/two.pt', augment=augment)
open(f"{sys.argv[1]}/{os.environ['RANK']}.json", 'w').write(json.dumps(seen))
assert len(stopped_and_resumed(train_on_images, f'{sys.argv[1]}/stopped.pt', 1)) == 2
'''
    launch(torchrun(program(tmp_path, body), tmp_path))
    assert largest_difference(tmp_path/'two.pt', tmp_path/'stopped.pt') == 0
    assert largest_difference(tmp_path/'alone.pt', tmp_path/'two.pt') < 1e-8  # of steps of 1e-3; Adam divides by a gradient's own size, so the rounding of the smallest shows (1.4e-9 seen with two threads)
    alone, two = (torch.load(tmp_path/f'{n}.pt', weights_only=True)['optimizer']['state'] for n in ('alone', 'two'))
    assert max(((alone[k]['exp_avg'] - two[k]['exp_avg']).abs().max()/alone[k]['exp_avg'].abs().max().clamp(min=1e-9)).item() for k in alone) < 1e-6  # means of the gradients
    untrained = small_backbone().state_dict()
    changed = {n for n, x in torch.load(tmp_path/'two.pt', weights_only=True)['encoder'].items() if n.startswith('backbone') and not torch.equal(x, untrained[n.removeprefix('backbone.')])}
    assert changed and all('layer4' in n for n in changed)  # the trunk and its folded statistics stay as they are
    first, second = (json.loads((tmp_path/f'{r}.json').read_text()) for r in (0, 1))
    steps = [(a[:4], b[:4], a[4], b[4]) for a, b in ((first[i:i + 5], second[i:i + 5]) for i in range(0, 20, 5))]
    assert len(first) == len(second) == 20 and all(a == b == [4, 4] for *_, a, b in steps)  # two videos of two views
    for a, b, *_ in steps: assert len(set(a)) == len(set(b)) == 2 and not set(a) & set(b)
    assert {n for a, b, *_ in steps[:2] for n in a + b} == set(range(9, 17))


def test_a_signal_to_the_launcher_stops_all_and_one_process_goes_on(tmp_path):
    train(tmp_path/'alone.pt', n_epochs=60)
    body = "train(sys.argv[1], n_epochs=60, log=lambda r: print(r['epoch'], flush=True))"
    with subprocess.Popen(torchrun(program(tmp_path, body), tmp_path/'two.pt'), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            assert process.stdout.readline() == '0\n'
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=120)
        finally: process.kill()
    assert err.count('Terminated: stopped by SIGTERM after step') == 2
    done = torch.load(tmp_path/'two.pt', weights_only=True)
    assert 0 <= done['epoch'] < 59
    train(tmp_path/'two.pt', n_epochs=60)
    assert largest_difference(tmp_path/'alone.pt', tmp_path/'two.pt') < 1e-8


def test_a_loss_that_is_not_finite_stops_both_and_can_be_tried_again(tmp_path):
    from lrprop.trainer import replay
    body = '''
import torch, test_distributed
class Spoilt(torch.nn.Module):
    def forward(self, embs, *_): return embs.sum() / 0 if os.path.exists(sys.argv[1]) else embs.sum()
test_distributed.LOSSES['spoilt'] = Spoilt, 'projection'
train(sys.argv[1], 'spoilt', dtype=torch.float32, checkpoint_minutes=0)
'''
    _, err = launch(torchrun(program(tmp_path, body), tmp_path/'run.pt'), fails=True)
    assert err.count('FloatingPointError: the loss is') >= 2 and 'run.failed.pt' in err
    saved = torch.load(tmp_path/'run.failed.pt', weights_only=True)
    assert len(saved['batch']['frames']) == len(saved['batch']['mask']) == 4
    with pytest.raises(FloatingPointError, match='the loss is'): replay(tmp_path/'run.failed.pt', lambda embs, *_: embs.sum() / 0)


@pytest.mark.parametrize('launcher', ['accelerate launch', 'notebook_launcher'])
def test_launchers_of_accelerate(tmp_path, launcher):
    pytest.importorskip('accelerate')
    if launcher == 'accelerate launch':
        command = [str(w) for w in (BIN/'accelerate', 'launch', '--multi_gpu', '--num_processes', 2, '--main_process_port', free_port(), program(tmp_path, "train(sys.argv[1], n_epochs=2, log=lambda r: print('logged'))"), tmp_path/'two.pt')]
    else:
        body = "from accelerate import notebook_launcher\ndef main(path): train(path, n_epochs=2, log=lambda r: print('logged'))\nnotebook_launcher(main, (sys.argv[1],), num_processes=2, use_port=sys.argv[2])"
        command = [sys.executable, str(program(tmp_path, body)), str(tmp_path/'two.pt'), str(free_port())]
    out, _ = launch(command)
    assert out.count('logged') == 2
    train(tmp_path/'alone.pt', n_epochs=2)
    assert largest_difference(tmp_path/'alone.pt', tmp_path/'two.pt') < 1e-9


def test_the_command_line_on_two_processes(tmp_path, monkeypatch):
    "Features are computed in shares, one record is written, and it is that of one process."
    write_clips(tmp_path/'clips')
    words = ('train', '--dataset', 'folder', '--root', tmp_path/'clips', '--n-frames', 12, '--n-epochs', 2, '--device', 'cpu', '--out')
    def go(*command): return launch([str(w) for w in command], cwd=tmp_path)[0]
    monkeypatch.setenv('LRPROP_CACHE', str(tmp_path/'cache'))
    out = go(*torchrun('--no-python', COMMAND, *words, tmp_path/'two'))
    go(COMMAND, *words, tmp_path/'one')
    assert out.count('everything is in') == 1
    one, two = (json.loads((tmp_path/f'{n}/result.json').read_text()) for n in ('one', 'two'))
    assert two['device'].startswith('2 × cpu') and one['config'] == two['config']
    np.testing.assert_allclose([h['loss'] for h in two['history']], [h['loss'] for h in one['history']], rtol=1e-3)
    np.testing.assert_allclose(two['scores']['tau'], one['scores']['tau'], atol=.05)
    assert len({tuple(sorted(p.name.split('.')[0] for p in (tmp_path/n).iterdir())) for n in ('one', 'two')}) == 1  # one file of curves, too
