"""From a training to embeddings of a folder; killed, repeated, damaged."""
import json
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('onnxruntime', reason="the extra 'onnx' is not installed")

from clips import contents, moving_square, write_clips
from commands import COMMAND, call
from lrprop.video import VideoFile
from lrprop.writing import write_video


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "Eight clips, a run trained on them, and the file made of it."
    folder = tmp_path_factory.mktemp('world')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LRPROP_CACHE', str(folder/'cache'))
        write_clips(folder/'clips')
        call('train', '--dataset', 'folder', '--root', folder/'clips', '--n-frames', 8, '--n-epochs', 1, '--method', 'scl', '--device', 'cpu', '--out', folder/'run')
        said = call('export', folder/'run', '--out', folder/'model.onnx')
        assert 'frames (N, T, H, W, 3) uint8' in said and float(said.split('by ')[1].split(' ')[0]) < 1e-4
        yield folder


def test_run_and_file_embed_alike(world):
    call('embed', world/'clips', '--model', world/'run', '--out', world/'by_run', '--device', 'cpu')
    said = call('embed', world/'clips', '--model', world/'model.onnx', '--out', world/'by_file', '--jobs', 2)
    assert '8 videos embedded, 8 of them new; embeddings.png shows them' in said and min(Image.open(world/'by_file/embeddings.png').size) > 300
    index = json.loads((world/'by_file/index.json').read_text())
    assert index['model']['backbone'] == 'efficientnet_lite0_grid' and len(index['model']['sha256']) == 64
    assert [(v['name'], v['n_frames'], v['fps']) for v in index['videos']] == [(str(i), 16 + 2*i, 25.) for i in range(8)]
    for i in range(8):
        run, file = (np.load(world/f'{by}/{i}.npy') for by in ('by_run', 'by_file'))
        assert file.shape == (len(VideoFile(world/f'clips/{i}.mp4')), 128) and file.dtype == np.float32
        assert np.abs(run - file).max() < 1e-4


def test_one_and_two_processes_embed_alike(world):
    "To the byte, index and all."
    for jobs in (1, 2): call('embed', world/'clips', '--model', world/'model.onnx', '--out', world/f'jobs{jobs}', '--jobs', jobs)
    assert contents(world/'jobs1') == contents(world/'jobs2')


def test_sigkill_at_any_moment(world):
    "Killed again and again, it ends with the very bytes of an undisturbed call; once more, and nothing is touched."
    words = [COMMAND, 'embed', str(world/'clips'), '--model', str(world/'model.onnx'), '--out']
    subprocess.run([*words, str(world/'straight')], timeout=300, capture_output=True, check=True)
    rng = np.random.default_rng(0)
    for n in (1, 5):
        process = subprocess.Popen([*words, str(world/'killed')], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(world.glob('killed/[0-9].npy'))) < n: time.sleep(.001)
        time.sleep(rng.uniform(0, .02))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    held = {p.name: p.stat().st_mtime_ns for p in world.glob('killed/[0-9].npy')}
    assert len(held) >= 5
    said = call(*words[1:], world/'killed')
    assert int(said.split(' videos embedded, ')[1].split(' ')[0]) == 8 - len(held)
    assert contents(world/'killed') == contents(world/'straight') and set(contents(world/'straight')) == {'index.json', 'embeddings.png', *(f'{i}.npy' for i in range(8))}
    assert {p.name: p.stat().st_mtime_ns for p in world.glob('killed/[0-9].npy')}.items() >= held.items()
    touched = {p.name: p.stat().st_mtime_ns for p in (world/'killed').iterdir()}
    assert ' 0 of them new' in call(*words[1:], world/'killed')
    assert {p.name: p.stat().st_mtime_ns for p in (world/'killed').iterdir()} == touched


def test_errors_end_in_one_line(world):
    (world/'some').mkdir()
    write_video(world/'some/good.mp4', moving_square(12, 1, 0))
    (world/'some/bad.mp4').write_bytes(b'no video')
    embed = ('embed', world/'some', '--model', world/'model.onnx', '--out', world/'some_embs')
    assert 'bad.mp4: cannot be read as video' in call(*embed, status=1).splitlines()[-1]
    said = call(*embed, '--on-error', 'skip')
    assert '1 videos embedded' in said and 'left out: 1' in said and 'bad.mp4: cannot be read' in said
    assert set(contents(world/'some_embs')) == {'good.npy', 'index.json', 'embeddings.png'}
    assert 'belongs to another configuration (' in call('embed', world/'some', '--model', world/'run', '--out', world/'some_embs', '--device', 'cpu', status=1)
    assert 'model.onnx: exists' in call('export', world/'run', '--out', world/'model.onnx', status=1)
    call('export', world/'run', '--out', world/'features.onnx', '--takes', 'features')
    call('embed', world/'some', '--model', world/'features.onnx', '--out', world/'third', '--on-error', 'skip', '--device', 'cpu')
    assert np.abs(np.load(world/'third/good.npy') - np.load(world/'some_embs/good.npy')).max() < 1e-4


def test_a_training_on_images(world):
    "Trained with its backbone: run and file embed alike, without the weights of any other network."
    call('train', '--dataset', 'folder', '--root', world/'clips', '--finetune', '--backbone', 'resnet50_random', '--image-size', 32, '--n-frames', 4, '--n-epochs', 1, '--method', 'scl', '--device', 'cpu', '--out', world/'tuned')
    assert 'takes images' in call('export', world/'tuned', '--out', world/'tuned.onnx', '--takes', 'features', status=1)
    said = call('export', world/'tuned', '--out', world/'tuned.onnx')
    assert 'frames (N, T, H, W, 3) uint8' in said and float(said.split('by ')[1].split(' ')[0]) < 1e-4
    (world/'two').mkdir()
    for name in ('0.mp4', '3.mp4'): (world/'two'/name).write_bytes((world/'clips'/name).read_bytes())
    for model, out in (('tuned', 'tuned_by_run'), ('tuned.onnx', 'tuned_by_file')): call('embed', world/'two', '--model', world/model, '--out', world/out, '--device', 'cpu')
    for name in ('0.npy', '3.npy'):
        run, file = (np.load(world/f'tuned_by_{by}'/name) for by in ('run', 'file'))
        assert run.shape[1] == 128 and np.abs(run - file).max() < 1e-4 and run.std(0).max() > 1e-3
    shutil.rmtree(world/'tuned'); (world/'tuned.onnx').unlink()  # half a gigabyte
