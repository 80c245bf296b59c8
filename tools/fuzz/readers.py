"""Coverage-guided fuzzing (atheris, `pip install atheris`) of the readers of files that come from outside: TFRecords, an index, a table of phases.

    python tools/fuzz/readers.py tfrecord work/ tests/corpus/tfrecord -max_total_time=1800

A reader may raise `ValueError` (or `FileNotFoundError`) that names the file, and what it reads must hold together; anything else is a finding, which libFuzzer writes
down. Minimise it with `-minimize_crash=1 FILE`, and keep it under tests/corpus/, where CI reads it again."""
import os
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path


def _file(name: str) -> Path:
    "A file of one's own, in memory where there is such a folder."
    shm = Path('/dev/shm')
    folder = Path(tempfile.gettempdir() if not os.access(shm, os.W_OK) else shm)/f'lrprop-fuzz-{os.getpid()}'
    folder.mkdir(exist_ok=True)
    return folder/name


def fuzz_tfrecord(data: bytes) -> None:
    "The first byte decides: a whole file, or the payload of a record, which a checksum would hide."
    from lrprop.tfrecord import Record, parse_video, read_records
    path = _file('fuzz.tfrecord')
    try:
        if data[:1] < b'\x80': records = [Record(data[1:], str(path))]
        else:
            path.write_bytes(data[1:])
            records = list(read_records(path))
        for video in map(parse_video, records):
            assert video.labels is None or len(video.labels) == len(video.jpegs)
            assert sum(map(len, video.jpegs)) <= len(data)
    except ValueError as e: assert str(path) in str(e)


def fuzz_index(data: bytes) -> None:
    "Bytes of an index; or, as few mutants would pass, changes of a row's fields as JSON."
    from lrprop.dataset import INDEX, read_index
    path = _file(INDEX)
    path.write_bytes(data)
    try: rows = list(read_index(path.parent))
    except ValueError as e: assert str(path) in str(e)
    else:
        assert len({r.name for r in rows}) == len(rows)
        for r in rows:
            assert (Path('/root')/r.file).parts[:2] == ('/', 'root') and '..' not in Path(r.file).parts and len(Path(r.file).parts) == 2
            assert 2 <= r.n_frames <= r.bytes and r.fps > 0 and (r.phase_starts is None or r.phase_starts[0] == 0)


def fuzz_phases(data: bytes) -> None:
    from lrprop.phases import read_phases
    path = _file('phases.csv')
    path.write_bytes(data)
    try: rows = read_phases(path)
    except ValueError as e: assert str(path) in str(e)
    else:
        for name, r in rows.items():
            assert name == r.video and name and '/' not in name
            if r.starts and r.n_frames < 10**5: assert len(r.phases) == r.n_frames and r.phases[0] == 0 and r.phases[-1] == len(r.starts) - 1


READERS: dict[str, Callable[[bytes], None]] = dict(tfrecord=fuzz_tfrecord, index=fuzz_index, phases=fuzz_phases)


def write_seeds(folder: Path) -> None:
    "Sound files of each kind, from which mutation starts."
    from lrprop.dataset import INDEX
    from lrprop.formats import write_folder_fixture
    from lrprop.prepare import prepare
    from lrprop.tfrecord import sequence_example, video_payload, write_records
    for name in READERS: (folder/name).mkdir(parents=True, exist_ok=True)
    tiny = [video_payload('a', [b'\xff\xd8', b''], [0, 1]), video_payload('ü', [b'x'], None), sequence_example(dict(name='b', len=1, label=[-1, 2**40]), dict(video=[[b'1', b'2']], other=[[]]))]
    for i, payload in enumerate(tiny): (folder/f'tfrecord/payload{i}').write_bytes(b'\0' + payload)
    with tempfile.TemporaryDirectory() as work:
        (folder/'tfrecord/file').write_bytes(b'\xff' + write_records(Path(work)/'x.tfrecord', tiny).read_bytes())
        (folder/'tfrecord/empty').write_bytes(b'\xff')
        write_folder_fixture(Path(work)/'own', 3)
        index = (prepare('folder', Path(work)/'own', Path(work)/'root', progress=False).folder/INDEX).read_bytes()
        (folder/'index/prepared').write_bytes(index)
        (folder/'index/first').write_bytes(b''.join(index.splitlines(True)[:2]).replace(b'"n_videos": 3', b'"n_videos": 1'))
        (folder/'phases/folder').write_bytes((Path(work)/'own/phases.csv').read_bytes())
    (folder/'phases/quoted').write_bytes('\ufeffvideo,action,split,n_frames,phase_starts,more\n"a, ""b""",squat,train,9,0 2 4 6,x\nc,,val,2,,\n'.encode())


def main() -> None:
    import atheris
    with atheris.instrument_imports(include=['lrprop.tfrecord', 'lrprop.dataset', 'lrprop.phases', 'lrprop.formats', 'json', 'csv']):
        for module in ('dataset', 'phases', 'tfrecord'): import_module(f'lrprop.{module}')
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, READERS[name])
    atheris.Fuzz()


if __name__ == '__main__': main()
