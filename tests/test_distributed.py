"One run on several processes, started as users start them: the steps of one process, whoever launches."
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lrprop.core import Video, seed_torch_at
from lrprop.encoder import Encoder
from lrprop.losses.lrprop import lrprop
from lrprop.losses.sal import SAL
from lrprop.trainer import fit

BIN = Path(sys.executable).parent
LOSSES = dict(lrprop=(lambda: lrprop, 'projection'), sal=(lambda: SAL(16).double(), 'raw'))


def train(path, loss, n_epochs=3, **settings):
    "A short run in double precision, so that only a wrong step can differ; with dropout, ragged clips, random augmentation."
    rng = np.random.default_rng(0)
    videos = [Video(f'v{i}', rng.normal(size=(9 + 3*i, 4)).cumsum(0).astype('float32')) for i in range(8)]
    seed_torch_at(0, 'weights')
    encoder, (make, output) = Encoder(in_dim=4, n_frames=16, depth=1, hidden_dim=32, dim=32, emb_dim=16).double(), LOSSES[loss]
    def augment(x, rngs): return x.double() + torch.tensor([r.normal() for r in rngs])[:, None, None]
    return fit(encoder, make(), videos, 16, n_videos=4, n_epochs=n_epochs, lr=1e-3, augment=augment, output=output, checkpoint=Path(path), config={}, **settings)


def environment(**more): return os.environ | dict(PYTHONPATH=os.pathsep.join((str(Path(__file__).parent), os.environ.get('PYTHONPATH', ''))), OMP_NUM_THREADS='1') | more
def torchrun(*words, n=2): return [BIN/'torchrun', '--standalone', '--nproc-per-node', n, *words]


def launch(command, timeout=240, **more):
    "Run a launcher and return what it printed; its processes end with it."
    done = subprocess.run([str(w) for w in command], capture_output=True, text=True, timeout=timeout, env=environment(**more))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def script(tmp_path, body):
    path = tmp_path/'program.py'
    path.write_text('import json, sys\nfrom test_distributed import train\n' + body)
    return path


def weights(path): return torch.load(path, weights_only=True)


def largest_difference(a, b):
    a, b = ({f'{part}.{n}': x for part in ('encoder', 'loss') for n, x in s[part].items()} for s in map(weights, (a, b)))
    assert a.keys() == b.keys()
    return max((a[n] - b[n]).abs().max().item() for n in a)


@pytest.mark.parametrize('loss', LOSSES)
def test_two_processes_take_the_steps_of_one(tmp_path, loss):
    "And a run of one process is resumed by two, and by one again."
    alone = train(tmp_path/'alone.pt', loss)
    body = f"import os\nh = train(sys.argv[1], {loss!r}, log=lambda r: print('log'), label='bar')\nprint(json.dumps(h) if os.environ['RANK'] == '0' else '')"
    out = launch(torchrun(script(tmp_path, body), tmp_path/'two.pt')).split('\n')
    assert out.count('log') == 3  # the first process's alone
    history = json.loads(next(line for line in out if line.startswith('[')))
    np.testing.assert_allclose([h['loss'] for h in history], [h['loss'] for h in alone], rtol=1e-10)
    assert largest_difference(tmp_path/'alone.pt', tmp_path/'two.pt') < 1e-9
    class Stop(Exception): pass
    def stop(record):
        if record['epoch'] == 1: raise Stop
    with pytest.raises(Stop): train(tmp_path/'both.pt', loss, checkpoint_minutes=0, log=stop)
    launch(torchrun(script(tmp_path, f'train(sys.argv[1], {loss!r})'), tmp_path/'both.pt'))
    assert largest_difference(tmp_path/'alone.pt', tmp_path/'both.pt') < 1e-9
