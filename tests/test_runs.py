"""Whole runs, as a user starts them: the demo in small, joints, a folder of clips, a killed run."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clips import contents, moving_square, write_clips
from commands import COMMAND, call
from lrprop.video import VideoFile
from lrprop.writing import write_video

PENN = Path(__file__).parent.parent.parent/'shared/data/penn_action'
METRICS = {'tau', 'progress', *(f'ap@{k}' for k in (1, 5, 10, 15, 20, 25, 30)), *(f'{c}@{p}' for c in ('svm', 'linear') for p in (5, 10, 25, 50, 75, 100)), 'dtw_accuracy'}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('LRPROP_CACHE', str(tmp_path_factory.getbasetemp()/'cache'))


def read(path): return json.loads(path.read_text(encoding='utf-8'))


def test_demo_in_small(tmp_path):
    out = tmp_path/'demo'
    words = ('demo', '--out', out, '--n-train', 4, '--n-val', 2, '--n-epochs', 1, '--device', 'cpu')
    said = call(*words)
    record = read(out/'result.json')
    assert list(record['results']) == ['chance', 'time', 'frozen', 'scl', 'lrprop']
    for result in record['results'].values():
        assert METRICS | {'alignment_error'} == set(result['scores'])
        assert np.isfinite(list(result['scores'].values())).all()
    assert record['results']['time']['scores']['tau'] > .99
    errors = record['alignments']
    assert set(errors) == {'pouring', 'warped_copy', 'other_camera'}
    assert errors['warped_copy']['error'] < errors['warped_copy']['straight_line']
    for name in errors:
        assert len(VideoFile(out/f'align_{name}.mp4')) >= 50
        assert (out/f'align_{name}.png').stat().st_size > 5000
    assert {'scores.csv', 'scores.md', 'scores.png', 'losses.png', 'config.json'} <= {p.name for p in out.iterdir()}
    assert str(out) in said

    weights = (out/'lrprop/checkpoint.pt').read_bytes()
    call(*words)  # a second time trains nothing again
    assert (out/'lrprop/checkpoint.pt').read_bytes() == weights
    assert 'n_epochs: there 1, asked for 2' in call(*words[:-4], '--n-epochs', 2, status=1)


def test_the_wheel_holds_every_module_and_works_without_nbdev(tmp_path):
    root = Path(__file__).parent.parent
    source = tmp_path/'source'
    shutil.copytree(root, source, ignore=shutil.ignore_patterns('.git', '.venv', 'runs', 'nbs', '_proc', '_docs', '*.egg-info', 'build', '__pycache__'))
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-build-isolation', '--target', tmp_path/'site', source], check=True, timeout=300)
    modules = {p.relative_to(root) for p in (root/'lrprop').rglob('*') if p.suffix in ('.py', '.mp4') or p.name == 'LICENSE'}
    assert len(modules) > 25 and all((tmp_path/'site'/m).exists() for m in modules)
    script = "import sys; sys.modules.update(dict.fromkeys(('nbdev', 'execnb', 'fastcore', 'tslearn'))); import lrprop, lrprop.demo; from lrprop.data import four_cameras; print(lrprop.__file__, len(four_cameras()[0]))"
    done = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, env=os.environ | {'PYTHONPATH': str(tmp_path/'site')}, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path/'site/lrprop/__init__.py'), '100']


@pytest.mark.skipif(not PENN.is_dir(), reason='no folder shared/data/penn_action beside the project')
def test_penn_joints(tmp_path):
    words = ('train', '--dataset', 'penn_joints', '--root', PENN, '--action', 'jumping_jacks', '--n-epochs', 1, '--device', 'cpu')
    call(*words, '--out', tmp_path/'run', '--results', tmp_path/'results')
    record = read(tmp_path/'results/penn_joints-jumping_jacks-lrprop-s0.json')
    assert set(record['scores']) == METRICS
    assert str(PENN) not in json.dumps(record)  # a record holds no path of the machine it was made on
    assert record['config']['n_frames'] == 20 and record['config']['lambda2'] == .4


def test_unknown_action_lists_the_labelled_ones(tmp_path):
    message = call('train', '--dataset', 'penn_joints', '--root', tmp_path, '--action', 'juggling', '--out', tmp_path/'run', status=1)
    assert 'juggling' in message and 'jumping_jacks' in message and 'tennis_serve' in message
    assert not (tmp_path/'run').exists()


def test_folder_of_unlabelled_clips(tmp_path):
    call('train', '--dataset', 'folder', '--root', write_clips(tmp_path/'clips'), '--n-frames', 12, '--n-epochs', 1, '--out', tmp_path/'run', '--device', 'cpu')
    assert set(read(tmp_path/'run/result.json')['scores']) == {'tau'}  # all that needs no labels


def test_a_terminated_command_goes_on(tmp_path, monkeypatch):
    "SIGTERM in the middle of an epoch: a message, code 143, and the same command ends as if nothing had been."
    from lrprop import trainer
    clips = write_clips(tmp_path/'clips')
    def train(out, *words, **how): return call('train', '--dataset', 'folder', '--root', clips, '--n-frames', 8, '--n-epochs', 3, '--method', 'vava', '--device', 'cpu', '--out', tmp_path/out, *words, **how)
    train('straight', '--track', 'none')
    show, n = trainer._show, iter(range(9))
    def signalled(*arguments, **more):
        show(*arguments, **more)
        if next(n) == 3: signal.raise_signal(signal.SIGTERM)
    monkeypatch.setattr(trainer, '_show', signalled)
    assert f'after step 0 of epoch 1; the same call goes on from {tmp_path}' in train('run', '--evaluate-every', 2, status=143)
    assert not (tmp_path/'run/result.json').exists()
    train('run', '--evaluate-every', 2)
    straight, run = (read(tmp_path/out/'result.json') for out in ('straight', 'run'))
    assert run['scores'] == straight['scores'] and [h['loss'] for h in run['history']] == [h['loss'] for h in straight['history']]
    assert ['tau' in h for h in run['history']] == [False, True, False]
    assert (tmp_path/'run/checkpoint.safetensors').read_bytes() == (tmp_path/'straight/checkpoint.safetensors').read_bytes()
    assert list((tmp_path/'run').glob('*tfevents*')) and not list((tmp_path/'straight').glob('*tfevents*'))


def write_format(name, folder):
    "A fixture of a published format; what to prepare it as, and what to train with."
    from lrprop.carl import write_carl_fixture
    from lrprop.formats import write_folder_fixture, write_pouring_fixture
    from lrprop.penn_action import write_penn_action_fixture
    if name == 'tfrecords': write_pouring_fixture(folder, 4, 4); return 'pouring', ()
    if name == 'carl pouring': write_carl_fixture(folder, 'pouring', 4, 4); return 'pouring', ()
    if name == 'carl penn': write_carl_fixture(folder, 'penn_action'); return 'penn_action', ('--action', 'squats')
    if name == 'penn': write_penn_action_fixture(folder); return 'penn_action', ('--action', 'squats')
    write_folder_fixture(folder)
    return 'folder', ()


@pytest.mark.parametrize('name', ['tfrecords', 'carl pouring', 'carl penn', 'penn', 'folder'])
def test_prepare_and_train_each_format(name, tmp_path):
    "The installed command, from the published files to scores."
    dataset, words = write_format(name, tmp_path/'source')
    def run(*words):
        done = subprocess.run([str(w) for w in (COMMAND, *words)], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    n = {'pouring': 8, 'penn_action': 12, 'folder': 6}[dataset]
    assert f' {n} videos, {n} of them new' in run('prepare', dataset, '--source', 'source', '--root', 'root')
    if name == 'tfrecords': assert ', 0 of them new' in run('prepare', dataset, '--source', 'source', '--root', 'root')
    shutil.rmtree(tmp_path/'source')  # nothing of it is needed any more
    run('train', '--dataset', dataset, '--root', 'root', *words, '--n-frames', 8, '--n-epochs', 1, '--device', 'cpu', '--out', 'run', '--method', 'scl')
    scores = read(tmp_path/'run/result.json')['scores']
    assert {'tau', 'progress', 'svm@100', 'dtw_accuracy'} <= set(scores) <= METRICS and np.isfinite(list(scores.values())).all()


def test_one_model_for_several_actions(tmp_path):
    "Trained together, scored apart, and the record says both."
    from lrprop.penn_action import write_penn_action_fixture
    write_penn_action_fixture(tmp_path/'source', 4, 2, ('squat', 'bowl', 'pushup'))
    call('prepare', 'penn_action', '--source', tmp_path/'source', '--root', tmp_path/'root')
    def train(action, method, **how):
        return call('train', '--dataset', 'penn_action', '--root', tmp_path/'root', '--action', action, '--method', method, '--n-frames', 8, '--n-epochs', 1,
                    '--device', 'cpu', '--out', tmp_path/f'{action}-{method}', '--results', tmp_path/'results', **how)
    rows = [line.split('  ')[0] for line in train('squats, Bowling', 'scl').splitlines()]
    assert rows[2:5] == ['bowl', 'squat', 'mean of 2']
    record = read(tmp_path/'results/penn_action-bowl+squat-scl-s0.json')
    assert record['config']['action'] == 'bowl,squat' and record['config']['lambda2'] == .4 and list(record['by_action']) == ['bowl', 'squat']
    for metric, mean in record['scores'].items(): assert abs(mean - sum(row[metric] for row in record['by_action'].values())/2) < 1e-12
    assert len(record['history']) == 1 and {'tau', 'progress', 'svm@100'} <= set(record['scores']) <= METRICS

    train('all', 'frozen')
    alone = {}
    for action in ('bowl', 'pushup', 'squat'):
        train(action, 'frozen')
        alone[action] = read(tmp_path/f'results/penn_action-{action}-frozen-s0.json')
        assert 'by_action' not in alone[action]
    assert read(tmp_path/'results/penn_action-all-frozen-s0.json')['by_action'] == {a: r['scores'] for a, r in alone.items()}

    assert "no video of action 'golf_swing'; its actions are bowl, pushup, squat" in train('bowl,golf_swing', 'scl', status=1)
    assert not (tmp_path/'bowl,golf_swing-scl').exists()


def test_prepare_survives_sigkill_at_any_moment(tmp_path):
    "Killed again and again, with one process and with two, it ends with the very bytes of an undisturbed run."
    from lrprop.dataset import load_prepared
    from lrprop.penn_action import write_penn_action_fixture
    write_penn_action_fixture(tmp_path/'source', 12, 4, ('bowl', 'squat', 'pushup'))
    def start(root, jobs=1): return subprocess.Popen([str(w) for w in (COMMAND, 'prepare', 'penn_action', '--source', tmp_path/'source', '--root', root, '--jobs', jobs)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert ', 48 of them new' in start(tmp_path/'straight').communicate(timeout=300)[0]
    folder, rng = tmp_path/'killed/penn_action', np.random.default_rng(0)
    for jobs, files in ((1, 3), (2, 12), (1, 25), (1, 40)):
        process = start(tmp_path/'killed', jobs)
        while process.poll() is None and len(list(folder.glob('frames/*.zip'))) < files: time.sleep(.001)
        time.sleep(rng.uniform(0, .02))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            with pytest.raises(FileNotFoundError, match='lrprop prepare'): load_prepared(folder)
    said = start(tmp_path/'killed').communicate(timeout=300)[0]
    assert int(said.split(' videos, ')[1].split(' of them new')[0]) < 24  # the rest was done before
    assert contents(tmp_path/'killed') == contents(tmp_path/'straight')
    assert len(load_prepared(folder, verify=True)) == 48


def test_a_run_folder_belongs_to_its_data(tmp_path):
    for name, shift in (('a', 0), ('b', 5)):
        (tmp_path/name).mkdir()
        for i in range(8): write_video(tmp_path/name/f'{i}.mp4', moving_square(16 + i, 1, i + shift))
    def train(root, **how): return call('train', '--dataset', 'folder', '--root', root, '--n-frames', 8, '--n-epochs', 1, '--out', tmp_path/'run', '--device', 'cpu', **how)
    train(tmp_path/'a')
    assert 'data: there' in train(tmp_path/'b', status=1)


KILLS = '''
import os, select, signal, sys, time
from pathlib import Path

import torch._dynamo  # which Adam would import in every child
from torch import nn
from torch.nn import functional as F

from lrprop.checkpoint import Terminated
from lrprop.core import Video, rng_at, seed_torch_at
from lrprop.encoder import Encoder
from lrprop.losses.sal import SAL
from lrprop.losses.vava import VAVA
from lrprop.trainer import fit

class Loss(nn.Module):
    "Owns weights and draws (SAL), and counts its steps (VAVA)."
    def __init__(self, pipe): super().__init__(); self.sal, self.vava, self.pipe = SAL(16), VAVA(n_iter=5), pipe
    def forward(self, embs, *batch):
        os.write(self.pipe, b'.')  # a step begins
        return dict(sal=self.sal(embs, *batch), vava=self.vava(F.normalize(embs, dim=-1), *batch))

def train(path, pipe, minutes):
    "Runs in a child; this process itself never computes, so it may fork."
    videos = [Video(f'v{i}', rng_at(i).normal(size=(30, 4)).cumsum(0).astype('float32')) for i in range(6)]
    seed_torch_at(0, 'weights')
    encoder, loss = Encoder(in_dim=4, n_frames=12, depth=1, hidden_dim=32, dim=32, emb_dim=16), Loss(pipe)
    try: fit(encoder, loss, videos, 12, n_epochs=50, lr=1e-3, output='raw', checkpoint=path, config=dict(T=12), checkpoint_minutes=minutes)
    except Terminated as e: assert str(path) in str(e); os._exit(143)

def start(path, minutes=0.):
    out, into = os.pipe()
    if pid := os.fork(): os.close(into); return pid, out
    signal.alarm(120)
    try: train(path, into, minutes)
    except BaseException as e: print(repr(e), flush=True); os._exit(1)
    os._exit(0)

def stop(pid, out, n_steps, rng, how):
    "Send a signal at a random moment of the n-th step from now; how the process ended."
    last = time.monotonic()
    for _ in range(n_steps): assert os.read(out, 1); last, before = time.monotonic(), last
    time.sleep(rng.uniform(0, min(time.monotonic() - before, .05)))
    os.kill(pid, how); code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]); os.close(out)
    return code

folder, rng = Path(sys.argv[1]), rng_at(0, 'kills')
for name, how, ends, n in (('killed', signal.SIGKILL, -9, 20), ('termed', signal.SIGTERM, 143, 4)):
    torn = 0
    for i in range(n):
        pid, out = start(folder/f'{name}.pt', (0., 2e-4)[i % 2] if how == signal.SIGKILL else 1e9)
        code = stop(pid, out, int(rng.integers(1, 7)), rng, how)
        assert code == ends, (name, i, code)
        torn += any(folder.glob(f'.{name}-*'))
    print(name, n, 'torn', torn, flush=True)
for name in ('killed', 'termed', 'straight'):
    pid, out = start(folder/f'{name}.pt', 1e9)
    while os.read(out, 4096): pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
'''


def test_twenty_sigkills_end_with_the_same_bits(tmp_path):
    "Killed at random moments, 20 times, or asked to stop, 4 times, a run ends with weights, counts, optimiser and record of an undisturbed one."
    import torch

    from lrprop.checkpoint import load_checkpoint
    env = os.environ | dict(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1', TQDM_DISABLE='1')  # no threads before a fork
    done = subprocess.run([sys.executable, '-c', KILLS, tmp_path], capture_output=True, text=True, timeout=300, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    straight = load_checkpoint(tmp_path/'straight.pt')
    def flat(x, path=''):
        if isinstance(x, (dict, list)): return {k: v for name, y in (x.items() if isinstance(x, dict) else enumerate(x)) for k, v in flat(y, f'{path}/{name}').items()}
        return {path: x}
    assert int(straight['loss']['vava.step']) == 150 and straight['epoch'] == 50
    for name in ('killed', 'termed'):
        a, b = flat(straight), flat(load_checkpoint(tmp_path/f'{name}.pt'))
        assert a.keys() == b.keys()
        assert [k for k in a if not k.endswith('/seconds') and not (torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k])] == []
        assert (tmp_path/f'{name}.safetensors').read_bytes() == (tmp_path/'straight.safetensors').read_bytes()
    assert not any(p.name.startswith('.') for p in tmp_path.iterdir())


def test_training_from_images_moves_layer4_and_leaves_the_trunk(tmp_path):
    "The paper's own path: augmented images through ResNet-50, layer4 trained, trunk frozen."
    import torch

    from lrprop.augment import eval_transform, ssl_augment
    from lrprop.backbone import PaperBackbone
    from lrprop.core import Video
    from lrprop.encoder import Encoder
    from lrprop.evaluate import embed_trained
    from lrprop.losses.lrprop import lrprop as loss
    from lrprop.synthetic import synthetic_pouring
    from lrprop.trainer import fit
    videos = synthetic_pouring('quick', n_train=2, n_val=0)
    backbone = PaperBackbone()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    encoder = Encoder(in_dim=2048, n_frames=4, depth=1, backbone=backbone)
    history = fit(encoder, loss, videos, n_frames=4, n_epochs=1, augment=lambda x, rngs: ssl_augment(x, rngs, size=64))
    assert np.isfinite(history[0]['loss'])
    changed = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all('layer4' in k for k in changed)
    head = Video('head', videos[0].frames[np.arange(5)])
    embs = embed_trained(encoder, lambda x: eval_transform(torch.from_numpy(x).movedim(-1, -3), size=64))(head)
    assert embs.shape == (5, 128) and np.allclose(np.linalg.norm(embs, axis=1), 1, atol=1e-5)
