"""Long use: what is called again and again holds no more memory, files, threads or processes than after its first calls. Read from /proc, so on Linux alone."""
import gc
import json
import os
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

import pytest

WARM, CALLS = 60, 100
MIB = 6     # That a process may grow by in so many calls: a leak of 60 KB a call shows
CASES = {}  # Name → given a folder, a function of the call's number


def case(make):
    CASES[make.__name__] = make
    return make


@case
def alignments(folder):
    import numpy as np

    from lrprop.align import align
    x = np.random.default_rng(0).normal(size=(2, 120, 32))
    return lambda i: align(x[0, :100 + i % 7], x[1, :90 + i % 11], partial=i % 3 == 1, drop=i % 3 == 2)


@case
def soft_dtw_and_gradients(folder):
    import torch

    from lrprop.dtw import cost_matrix
    from lrprop.softdtw import soft_dtw
    def call(i):
        x, y = (torch.randn(4, n, 16, requires_grad=True) for n in (100 + i % 7, 90 + i % 11))
        soft_dtw(cost_matrix(x, y), .1).sum().backward()
    return call


@case
def videos(folder):
    "Opened, read in part, written."
    from lrprop.data import four_cameras
    from lrprop.video import VideoFile
    from lrprop.writing import write_video
    path = write_video(folder/'a.mp4', four_cameras(64)[0].frames[range(12)])
    def call(i):
        VideoFile(path)[[i % 12, 0]]
        if i % 20 == 0: write_video(folder/f'{i % 3}.mkv', VideoFile(path)[range(4)])
    return call


@case
def records(folder):
    "Reading that is given up halfway."
    from lrprop.tfrecord import read_records, write_records
    path = write_records(folder/'a.tfrecord', [bytes(20_000)]*8)
    return lambda i: list(islice(read_records(path), 1 + i % 4))


@case
def features(folder):
    "Computed and kept, found again."
    import numpy as np
    import torch

    from lrprop.backbone import Backbone
    from lrprop.cache import cached_features
    from lrprop.core import Video
    class Means(torch.nn.Module):
        def forward(self, x): return x.mean((2, 3)).repeat(1, 2)
    backbone, frames = Backbone('means', Means(), 16, (0, 0, 0), (1, 1, 1), 6), np.zeros((20, 64, 64, 3), 'u1')
    return lambda i: cached_features(Video('a', frames + np.uint8(i % 50)), backbone, folder).frames[[3]]


@case
def trainings(folder):
    import numpy as np

    from lrprop.core import Video
    from lrprop.encoder import Encoder
    from lrprop.losses.lrprop import lrprop
    from lrprop.trainer import fit
    clips = [Video(str(i), np.random.default_rng(i).normal(size=(40, 4)).cumsum(0).astype('f4')) for i in range(4)]
    return lambda i: fit(Encoder(in_dim=4, n_frames=16, depth=1, hidden_dim=16, dim=16, emb_dim=8), lrprop, clips, 16, n_epochs=1, lr=1e-3)


@case
def models(folder):
    "Saved, opened and asked."
    import numpy as np

    from lrprop.checkpoint import load_encoder, save_encoder
    from lrprop.core import Video
    from lrprop.encoder import Encoder
    from lrprop.evaluate import embed_trained
    from lrprop.export import OnnxModel, export_onnx
    encoder, x = Encoder(in_dim=4, n_frames=16, depth=1, hidden_dim=16, dim=16, emb_dim=8), np.ones((50, 4), 'f4')
    export_onnx(encoder, folder/'a.onnx')
    def call(i):
        save_encoder(folder/'a.safetensors', encoder)
        embed_trained(load_encoder(folder/'a.safetensors'))(Video('a', x[i % 20:]))
        OnnxModel(folder/'a.onnx')(Video('a', x[i % 20:]))
    return call


@case
def scores(folder):
    import numpy as np

    from lrprop.core import Video
    from lrprop.evaluate import embed_frozen, evaluate
    clips = [Video(str(i), np.random.default_rng(i).normal(size=(30 + i, 4)).cumsum(0).astype('f4'), np.repeat([0, 1, 2], 10 + i)[:30 + i], split='val' if i > 3 else 'train') for i in range(6)]
    return lambda i: evaluate(embed_frozen, clips)


@case
def pictures(folder):
    import numpy as np

    from lrprop.viz import plot_embedding, save_figure
    x = np.random.default_rng(0).normal(size=(2, 50, 8))
    return lambda i: save_figure(plot_embedding(list(x)), folder/f'{i % 5}.png')


@case
def pages(folder):
    import numpy as np

    from lrprop.align import Alignment
    from lrprop.core import Video
    from lrprop.player import write_player
    clips = [Video(n, np.zeros((20, 64, 64, 3), 'u1')) for n in 'ab']
    path = Alignment(np.stack([np.arange(20)]*2, 1), np.eye(20))
    return lambda i: write_player(folder/f'{i % 5}.html', clips, [path], progress=False)


@case
def two_processes(folder):
    from lrprop.parallel import each
    return lambda i: i % 20 or list(each(abs, range(-4, 0), 2, desc=''))


@case
def a_leak(folder):
    "To see that one is seen: memory, a file, and a thread that never ends."
    import threading

    import numpy as np
    kept = []
    def call(i):
        kept.append((np.ones(20_000), os.open(__file__, os.O_RDONLY)))
        if i % 25 == 0: threading.Thread(target=threading.Event().wait, daemon=True).start()
    return call


def held():
    "What this process holds, its children's memory not among it."
    import ctypes
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    proc = Path('/proc/self')
    def count(folder): return sum(1 for _ in (proc/folder).iterdir())
    children = (proc/f'task/{os.getpid()}/children').read_text().split()
    return dict(mib=int((proc/'statm').read_text().split()[1])*os.sysconf('SC_PAGE_SIZE')/2**20, files=count('fd'), threads=count('task'), processes=len(children))


def main():
    "A line of JSON: what more is held after many calls than after some."
    import torch
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        call = CASES[sys.argv[1]](Path(folder))
        for i in range(WARM): call(i)
        before = held()
        for i in range(WARM, WARM + CALLS): call(i)
        after = held()
    print(json.dumps({k: after[k] - before[k] for k in before}))


def grown(name):
    done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


needs_proc = pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='what a process holds is read from /proc')


@needs_proc
@pytest.mark.parametrize('name', [n for n in CASES if n != 'a_leak'])
def test_what_is_called_often_holds_nothing(name):
    more = grown(name)
    assert more['mib'] < MIB and more['files'] == more['threads'] == more['processes'] == 0, more


@needs_proc
def test_a_leak_is_seen():
    more = grown('a_leak')
    assert more['mib'] > MIB and more['files'] == CALLS and more['threads'] == CALLS/25


if __name__ == '__main__': main()
