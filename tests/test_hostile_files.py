"""Hostile files: damaged, lying, malicious. They are refused by name, run nothing, lead nowhere else, and take no memory."""
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from readers import READERS

from lrprop.align import Alignment
from lrprop.checkpoint import DamagedFile, load_checkpoint, load_encoder, load_tensors, resume_checkpoint
from lrprop.core import Video, rng_at
from lrprop.dataset import INDEX, load_prepared, read_index
from lrprop.formats import find_folder, find_pouring, write_folder_fixture, write_pouring_fixture
from lrprop.phases import read_phases
from lrprop.player import write_player
from lrprop.prepare import prepare
from lrprop.tfrecord import Record, parse_video, read_records

ROOT = Path(__file__).parent.parent
CORPUS = Path(__file__).parent/'corpus'
HEAD = 'video,action,split,n_frames,phase_starts\n'


class Creates:
    "Unpickled without care, it makes a file."
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (str(self.path), 'w')


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    "A prepared folder, and its lines."
    folder = tmp_path_factory.mktemp('prepared')
    write_folder_fixture(folder/'source', 3)
    return prepare('folder', folder/'source', folder/'root', copy=True, progress=False).folder


def with_row(folder, copy, **changed):
    "A copy of a prepared folder with another first row."
    shutil.copytree(folder, copy)
    head, first, *rest = (copy/INDEX).read_text().splitlines()
    (copy/INDEX).write_text('\n'.join([head, json.dumps(json.loads(first) | changed), *rest]) + '\n')
    return copy


# No path leaves its root
@pytest.mark.parametrize('changed', [dict(file='../clip0.mp4'), dict(file='/etc/passwd'), dict(file='videos/../../clip0.mp4'), dict(file='videos/clip0.mp4/../../x.mp4'), dict(name='../clip0', file='videos/../clip0.mp4'),
                                     dict(name='/clip0', file='videos//clip0.mp4'), dict(name='..', file='videos/...mp4'), dict(name='a\0b', file='videos/a\0b.mp4'), dict(file='frames/clip0.mp4'), dict(file='videos/clip0.pkl')], ids=repr)
def test_no_row_of_an_index_leads_out(prepared, tmp_path, changed):
    copy = with_row(prepared, tmp_path/'copy', **changed)
    for reads in (lambda: list(read_index(copy)), lambda: load_prepared(copy)):
        with pytest.raises(ValueError, match=r'index\.jsonl, line 2'): reads()


@pytest.mark.parametrize('link', ['videos/clip0.mp4', 'videos'])
def test_no_link_of_a_prepared_folder_leads_out(prepared, tmp_path, link):
    copy = with_row(prepared, tmp_path/'copy')
    (copy/link).rename(tmp_path/'elsewhere')
    (copy/link).symlink_to(tmp_path/'elsewhere')
    with pytest.raises(ValueError, match='leads out of'): load_prepared(copy)


@pytest.mark.parametrize('name', ['../clip0', '/etc/passwd', '..', 'a/b', 'a\\b', '.hidden'])
def test_no_table_of_phases_leads_out(tmp_path, name):
    write_folder_fixture(tmp_path/'clips', 3, labelled=False)
    (tmp_path/'clips/phases.csv').write_text(f'{HEAD}{name},wave,train,12,0 4 8\n')
    with pytest.raises(ValueError, match=r'phases\.csv, line 2'): list(find_folder(tmp_path/'clips'))


@pytest.mark.parametrize('name', ['../x', '/tmp/x', '..', 'a/b', 'a\0', 'con:1', ' x', 'x' * 300, '?'])
def test_no_record_is_called_what_leads_out(tmp_path, name):
    from lrprop.formats import to_jpeg
    from lrprop.tfrecord import video_payload, write_records
    folder = write_pouring_fixture(tmp_path/'source', 2, 1)
    jpeg = to_jpeg(np.zeros((8, 8, 3), 'uint8'))
    write_records(folder/'pouring_val-0-of-1.tfrecord', [video_payload(name, [jpeg]*3, [0, 0, 0])])
    entry = list(find_pouring(folder))[-1]
    with pytest.raises(ValueError, match='record 1 at byte 0'): entry.read()
    with pytest.raises(ValueError, match='record 1 at byte 0'): prepare('pouring', folder, tmp_path/'root', progress=False)
    assert not list(tmp_path.rglob('x*')) and not (tmp_path/'root/pouring'/INDEX).exists()


# Nothing from outside is run
def refused_and_not_run(tmp_path, call, error=ValueError):
    with pytest.raises(error): call()
    assert not (tmp_path/'made').exists()


def test_pickles_are_not_run(tmp_path):
    bomb = Creates(tmp_path/'made')
    pickle.loads(pickle.dumps(bomb)).close()
    assert (tmp_path/'made').exists()  # the payload works
    (tmp_path/'made').unlink()

    path = tmp_path/'checkpoint.pt'
    for state in (bomb, dict(format=2, config=bomb), dict(format=2, encoder={'head.weight': torch.zeros(2)}, config={}, more=[bomb])):
        torch.save(state, path)
        for call in (lambda: load_tensors(path), lambda: load_checkpoint(path), lambda: load_encoder(path), lambda: resume_checkpoint(path, {})): refused_and_not_run(tmp_path, call, DamagedFile)
    path.write_bytes(pickle.dumps(bomb))  # no zip file at all
    refused_and_not_run(tmp_path, lambda: load_tensors(path), DamagedFile)

    from lrprop.carl import load_restricted
    for protocol in (2, 4, 5):
        for value in (bomb, [dict(name='a', seq_len=bomb)]):
            (tmp_path/'train.pkl').write_bytes(pickle.dumps(value, protocol))
            refused_and_not_run(tmp_path, lambda: load_restricted(tmp_path/'train.pkl'))

    from lrprop.penn_action import read_phase_file
    np.save(tmp_path/'phases.npy', np.array([bomb], object), allow_pickle=True)
    refused_and_not_run(tmp_path, lambda: read_phase_file(tmp_path/'phases.npy'))

    from lrprop.embed import _holds
    assert not _holds(tmp_path/'phases.npy', np.zeros((1, 2), 'f4')) and not (tmp_path/'made').exists()

    from lrprop.backbone import load_backbone
    torch.save(bomb, tmp_path/'byol.pt')
    refused_and_not_run(tmp_path, lambda: load_backbone('resnet50_byol', weights=tmp_path/'byol.pt'))


def test_onnx_metadata_are_data(tmp_path):
    onnx = pytest.importorskip('onnx')
    from lrprop.export import read_info
    good = dict(takes='"features"', in_dim='4', emb_dim='4', n_frames='8', max_chunk='8', center='false', backbone='null', backbone_sha256='null', size='null', mean='null', std='null', decode_size='null', version='1')
    path = tmp_path/'model.onnx'
    def write(told, weights=()):
        x = onnx.helper.make_tensor_value_info('x', onnx.TensorProto.FLOAT, [1])
        model = onnx.helper.make_model(onnx.helper.make_graph([onnx.helper.make_node('Identity', ['x'], ['y'])], 'g', [x], [onnx.helper.make_tensor_value_info('y', onnx.TensorProto.FLOAT, [1])], list(weights)))
        for key, value in told.items(): model.metadata_props.add(key=f'lrprop.{key}', value=value)
        path.write_bytes(model.SerializeToString())
    write(good)
    assert read_info(path).in_dim == 4
    for key, value in (('in_dim', '-1'), ('in_dim', '1e9'), ('in_dim', 'NaN'), ('in_dim', '"4"'), ('in_dim', '__import__("os")'), ('takes', '"../x"'), ('center', '1'), ('version', '99'), ('__class__', '1'), ('emb_dim', 'null'), ('max_chunk', '0'), ('mean', '['*100_000)):
        write(good | {key: value})
        with pytest.raises(ValueError, match=r'model\.onnx'): read_info(path)
    outside = onnx.TensorProto(name='w', data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    outside.external_data.add(key='location', value='../../etc/passwd')
    write(good, [outside])
    with pytest.raises(ValueError, match='keeps weights in other files'): read_info(path)
    data = path.read_bytes()
    for i in range(200):
        rng, x = rng_at('onnx', i), bytearray(data)
        for at in rng.integers(0, len(x), 4): x[at] = rng.integers(256)
        path.write_bytes(x[:int(rng.integers(len(x)))] if i % 4 == 0 else x)
        try: read_info(path)
        except ValueError as e: assert 'model.onnx' in str(e)


# HTML says names, and does not run them
NASTY = '</script><script>alert(1)</script><img src=x onerror=alert(2)>"\'&{{js}}{{frames}}'


def test_a_page_does_not_run_names(tmp_path):
    video = lambda name: Video(name, np.zeros((3, 16, 16, 3), 'uint8'), np.arange(3))
    same = Alignment(np.stack([np.arange(3)]*2, 1), np.eye(3), NASTY, NASTY)
    plain = write_player(tmp_path/'plain.html', [video('a'), video('b')], [same], progress=False).read_text()
    page = write_player(tmp_path/'page.html', [video(NASTY), video(NASTY)], [same], phase_names=[NASTY]*3, title=NASTY, progress=False).read_text()
    assert '<img' not in page and 'alert(1)</script>' not in page
    for tag in ('<script', '</script', '<style', '<title'): assert page.count(tag) == plain.count(tag)
    assert page.count('onerror=') == page.count('\\u003cimg src=x onerror=') + page.count('&lt;img src=x onerror=') > 0


# Damaged files
def mutants(data, n, *address):
    "The same file with bytes changed, cut off, or a piece twice."
    for i in range(n):
        rng, x = rng_at('mutants', *address, i), bytearray(data)
        for at in rng.integers(0, len(x), int(2**rng.integers(0, 6))): x[at] = rng.choice((0, 255, 127, 128, int(rng.integers(256))))
        a, b = sorted(rng.integers(0, len(x), 2).tolist())
        yield bytes(x[:a] if i % 4 == 0 else x[:b] + x[a:] if i % 4 == 1 else x)


def test_mutated_records(tmp_path):
    write_pouring_fixture(tmp_path, 2, 1)
    path = tmp_path/'pouring_val-0-of-1.tfrecord'
    payload = next(read_records(path)).payload
    for data in mutants(path.read_bytes(), 100, 'file'):
        path.write_bytes(data)
        try: [parse_video(r) for r in read_records(path)]
        except ValueError as e: assert str(path) in str(e)
    for data in mutants(payload, 300, 'payload'):  # past the checksum
        try: video = parse_video(Record(data, 'here'))
        except ValueError as e: assert str(e).startswith('here')
        else: assert video.labels is None or len(video.labels) == len(video.jpegs)


def test_mutated_index(prepared, tmp_path):
    copy = with_row(prepared, tmp_path/'copy')
    for data in mutants((copy/INDEX).read_bytes(), 200):
        (copy/INDEX).write_bytes(data)
        try: videos = load_prepared(copy)
        except (ValueError, FileNotFoundError) as e: assert str(copy) in str(e)
        else: assert all((copy/v.frames.row.file).resolve().is_relative_to(copy.resolve()) for v in videos)


def test_mutated_tables(tmp_path):
    path = tmp_path/'phases.csv'
    for data in mutants(f'{HEAD}a,squat,train,20,0 4 8 12\n"b, c",squat,val,30,0 5 9 20\nd,situp,val,9,\n'.encode(), 500):
        path.write_bytes(data)
        try: rows = read_phases(path)
        except ValueError as e: assert str(path) in str(e)
        else: assert all(r.phases is None or len(r.phases) == r.n_frames for r in rows.values())


def test_mutated_checkpoints(tmp_path):
    from lrprop.checkpoint import save_encoder, save_tensors
    from lrprop.encoder import Encoder
    torch.manual_seed(0)
    encoder = Encoder(in_dim=3, n_frames=4, depth=1, hidden_dim=8, dim=8, emb_dim=4)
    state = dict(config={}, encoder_config=encoder.config, encoder=encoder.state_dict())
    save_tensors(tmp_path/'a.pt', state)
    save_encoder(tmp_path/'a.safetensors', encoder)
    def shapes(encoder): return {k: v.shape for k, v in encoder.state_dict().items()}
    for name in ('a.pt', 'a.safetensors'):
        path, data = tmp_path/name, (tmp_path/name).read_bytes()
        for mutant in mutants(data, 60, name):
            path.write_bytes(mutant)
            try: again = load_encoder(path)
            except (ValueError, FileNotFoundError) as e: assert name in str(e)
            else: assert mutant == data or (name == 'a.safetensors' and shapes(again) == shapes(encoder))  # which has no checksum of its weights: a number may be another
    path = tmp_path/'bomb.pt'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file: file.writestr('archive/data.pkl', bytes(50_000_000))
    with pytest.raises(DamagedFile, match=r'bomb\.pt'): load_tensors(path)


@pytest.mark.parametrize('reader', ['tfrecord', 'index', 'phases'])
def test_the_corpus_of_findings(reader):
    "What fuzzing (tools/fuzz) has found, and what led it there: read, or refused with a `ValueError`."
    files = sorted((CORPUS/reader).iterdir())
    assert files
    for path in files: READERS[reader](path.read_bytes())


def test_mutated_media():
    "20 of each kind; tools/fuzz/media.py makes 500."
    done = subprocess.run([sys.executable, ROOT/'tools/fuzz/media.py', '-n', '20'], capture_output=True, text=True, timeout=900, check=False, env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])['counts']
    assert len(counts) == 7 and all(sum(c.values()) == 20 and c['refused'] and c['decoded'] for c in counts.values())
