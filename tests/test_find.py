"""Search, compare and segment from the command line, on clips where the answer is known."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from clips import moving_square
from commands import call
from lrprop.phases import read_phases
from lrprop.writing import write_video

N, SPEED = {f'c{i}': 22 + 2*i for i in range(9)}, {f'c{i}': .7 + .08*i for i in range(9)}
GONE = range(12, 17)  # frames of c4 in which there is no square


def progress(name): return (np.arange(N[name])/(N[name] - 1))**SPEED[name]


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "Nine clips of one movement at nine paces; in c4 the square is away for a while, and c2 lies elsewhere too, under another name."
    folder = tmp_path_factory.mktemp('world')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LRPROP_CACHE', str(folder/'cache'))
        (folder/'clips').mkdir()
        for name, n in N.items():
            frames = list(moving_square(n, SPEED[name], 4))
            if name == 'c4':
                for i in GONE: frames[i] = np.full_like(frames[i], 90)
            write_video(folder/f'clips/{name}.mp4', frames, fps=10)
        shutil.copy(folder/'clips/c2.mp4', folder/'q@1.mp4')
        yield folder


def state(folder): return {p.relative_to(folder): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob('*') if p.is_file() and 'cache' not in p.parts}


def is_picture(path): return path.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n' and path.stat().st_size > 5000


def test_search_finds_the_moment(world):
    said = call('search', f"{world/'q@1.mp4'}@1.3s", world/'clips', '-k', 8, '--apart', 'inf', '-o', world/'hits.csv')
    assert '9 videos' in said and 'frozen features of efficientnet_lite0_grid' in said and 'hits.png' in said
    hits = pd.read_csv(world/'hits.csv')
    assert sorted(hits.video) == sorted(set(N) - {'c2'})  # the query does not find itself
    off = [abs(progress(v)[f] - progress('c2')[13]) for v, f in zip(hits.video, hits.frame)]
    assert np.median(off) < .04 and (hits.score.diff()[1:] <= 0).all() and np.allclose(hits.time, hits.frame/10)
    assert is_picture(world/'hits.png')


def test_number_and_time_name_one_frame(world):
    query = world/'q@1.mp4'
    for at, out in (('13', 'number.csv'), ('1.3s', 'time.csv'), ('1.29s', 'near.csv')): call('search', f'{query}@{at}', world/'clips', '-o', world/out)
    assert (world/'number.csv').read_bytes() == (world/'time.csv').read_bytes() == (world/'near.csv').read_bytes()
    hits = pd.read_csv(world/'number.csv')
    assert len(hits) == 10
    for _, times in hits.groupby('video').time: assert (np.diff(np.sort(times)) > 1 - 1e-9).all()
    own = hits[hits.video == 'c2'].time
    assert (abs(own - 1.3) > 1 - 1e-9).all()


def test_faiss_gives_the_same_table(world):
    pytest.importorskip('faiss', reason="the extra 'faiss' is not installed")
    for index in ('exact', 'faiss'): call('search', f"{world/'clips/c3.mp4'}@8", world/'clips', '--apart', .5, '-o', world/f'{index}.csv', '--index', index)
    assert (world/'exact.csv').read_bytes() == (world/'faiss.csv').read_bytes()


def test_compare_names_the_clip_and_the_seconds(world):
    said = call('compare', world/'clips', '-o', world/'compared')
    assert 'c4: z ' in said and 'frozen features' in said
    summary = json.loads((world/'compared/summary.json').read_text(encoding='utf-8'))
    first = summary['clips'][0]
    assert first['video'] == 'c4' and first['odd'] and len(summary['clips']) == 9
    assert abs(first['stretch_frames'][0] - GONE[0]) <= 1 and abs(first['stretch_frames'][1] - GONE[-1]) <= 1
    assert np.allclose(first['stretch_seconds'], [first['stretch_frames'][0]/10, (first['stretch_frames'][1] + 1)/10])
    residuals = pd.read_csv(world/'compared/residuals.csv')
    assert residuals.groupby('video').size().to_dict() == N
    c4 = residuals[residuals.video == 'c4']
    assert c4.z[c4.frame.isin(GONE)].min() > c4.z[~c4.frame.isin(GONE)].median() + 2
    distances = pd.read_csv(world/'compared/distances.csv', index_col='video')
    assert list(distances.columns) == list(distances.index) == list(N) and np.allclose(distances, distances.T) and (np.diag(distances) == 0).all()
    assert all(is_picture(world/'compared'/f'{name}.png') for name in ('distances', 'deviations', 'residuals'))


def test_segments_are_phases_of_one_movement(world):
    said = call('segment', world/'clips', '-k', 3, '-o', world/'phases.csv')
    assert 'in 3 parts' in said and 'phases-spreads.png' in said and is_picture(world/'phases.png') and is_picture(world/'phases-spreads.png')
    rows = read_phases(world/'phases.csv')
    assert {name: row.n_frames for name, row in rows.items()} == N
    whole = [name for name in N if name != 'c4']
    found = np.array([progress(name)[list(rows[name].starts[1:])] for name in whole])
    equal = np.array([progress(name)[[round(N[name]/3), round(2*N[name]/3)]] for name in whole])
    assert (found.std(0) < .7*equal.std(0)).all()
    facts = json.loads((world/'phases.json').read_text(encoding='utf-8'))
    assert [c['start_frames'] for c in facts['clips']] == [list(row.starts) for row in rows.values()] and facts['parts'] == 3
    call('prepare', 'folder', '--source', world/'clips', '--root', world/'root', '--phases', world/'phases.csv')
    assert (world/'root/folder/index.jsonl').read_text(encoding='utf-8').count('"phase_starts"') == 9


def test_with_a_model(world):
    call('train', '--dataset', 'folder', '--root', world/'clips', '--n-frames', 8, '--n-epochs', 1, '--method', 'scl', '--device', 'cpu', '--track', 'none', '--out', world/'run')
    query = f"{world/'clips/c0.mp4'}@5"
    for words in (['search', query, world/'clips', '-o', world/'m.csv'], ['compare', world/'clips', '-o', world/'m'], ['segment', world/'clips', '-k', 2, '-o', world/'m-parts.csv']):
        assert f"embedded by {world/'run'}" in call(*words, '--model', world/'run', '--device', 'cpu')
    assert json.loads((world/'m/summary.json').read_text(encoding='utf-8'))['source'] == str(world/'run')
    assert 'no such file' in call('compare', world/'clips', '-o', world/'other', '--model', world/'none', status=1) and not (world/'other').exists()


@pytest.mark.parametrize(('words', 'said'), [
    (['search', 'QUERY', 'CLIPS', '-o', 'new.csv'], 'names no frame'),
    (['search', 'QUERY@99', 'CLIPS', '-o', 'new.csv'], 'has the frames 0 to 25, from 0 to 2.50 s'),
    (['search', 'QUERY@2.6s', 'CLIPS', '-o', 'new.csv'], 'has the frames 0 to 25'),
    (['search', 'none.mp4@3', 'CLIPS', '-o', 'new.csv'], 'none.mp4: no such file'),
    (['search', 'QUERY@3', 'none', '-o', 'new.csv'], 'none: no such folder'),
    (['search', 'QUERY@3', 'CLIPS', '-o', 'new.png'], "suffix '.png'; valid: .csv"),
    (['search', 'QUERY@3', 'CLIPS', '-o', 'none/new.csv'], 'its folder does not exist'),
    (['search', 'QUERY@3', 'CLIPS', '-o', 'new.csv', '-k', 0], 'k 0'),
    (['search', 'QUERY@3', 'CLIPS', '-o', 'new.csv', '--apart=-1'], 'apart -1'),
    (['search', 'QUERY@3', 'CLIPS', '-o', 'new.csv', '--index', 'tree'], "unknown index 'tree'; valid: exact, faiss"),
    (['compare', 'TWO', '-o', 'new'], '2 videos; valid: at least 3'),
    (['compare', 'CLIPS', '-o', 'new', '--limit', 0], 'limit 0'),
    (['compare', 'CLIPS', '-o', 'new', '--on-error', 'ignore'], "unknown on_error 'ignore'; valid: raise, skip"),
    (['segment', 'CLIPS', '-k', 0, '-o', 'new.csv'], 'k is 0'),
    (['segment', 'CLIPS', '-k', 23, '-o', 'new.csv'], 'k is 23; valid: 1 to 22 parts, as many as c0 has frames'),
    (['segment', 'CLIPS', '-k', 3, '-o', 'new.txt'], "suffix '.txt'; valid: .csv"),
])
def test_errors_end_in_one_line(world, words, said, tmp_path, monkeypatch):
    (tmp_path/'two').mkdir()
    for name in ('c0', 'c1'): shutil.copy(world/f'clips/{name}.mp4', tmp_path/'two')
    monkeypatch.chdir(tmp_path)
    before = state(tmp_path)
    places = {'CLIPS': str(world/'clips'), 'TWO': 'two', 'QUERY': str(world/'clips/c2.mp4')}
    for key, path in places.items(): words = [str(w).replace(key, path) for w in words]
    line = call(*words, status=1).strip()
    assert line.startswith('lrprop: ') and said in line and '\n' not in line
    assert state(tmp_path) == before


def test_nothing_is_overwritten(world, tmp_path):
    query, clips = f"{world/'clips/c0.mp4'}@5", world/'clips'
    (tmp_path/'compared').mkdir()
    for name in ('hits.png', 'parts.csv', 'b.json', 'c-spreads.png', 'compared/residuals.png', 'file'): (tmp_path/name).write_text('mine')
    before = state(tmp_path)
    for out, words in {'hits': ['search', query, clips], 'parts': ['segment', clips, '-k', 2], 'b': ['segment', clips, '-k', 2], 'c': ['segment', clips, '-k', 2]}.items():
        assert 'exists; choose another name' in call(*words, '-o', tmp_path/f'{out}.csv', status=1)
    assert 'residuals.png: exists' in call('compare', clips, '-o', tmp_path/'compared', status=1)
    assert 'file: is no folder' in call('compare', clips, '-o', tmp_path/'file', status=1)
    assert state(tmp_path) == before


def test_a_bad_video_is_left_out(world, tmp_path):
    clips = shutil.copytree(world/'clips', tmp_path/'clips')
    (clips/'bad.mp4').write_bytes(b'no video')
    assert 'bad.mp4: cannot be read as video' in call('compare', clips, '-o', tmp_path/'compared', status=1) and not (tmp_path/'compared').exists()
    said = call('compare', clips, '-o', tmp_path/'compared', '--on-error', 'skip')
    assert 'left out: 1' in said and 'bad.mp4: cannot be read' in said and '9 clips' in said
