"""Every notebook runs, is clean, and is the source of what is committed under lrprop/."""
import filecmp
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from commands import BIN

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(p.relative_to(ROOT) for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
SECONDS = 600  # nbdev_test itself has no limit


def run(*command, cwd=ROOT):
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A copy of the sources, to export and clean without touching the tree."
    folder = tmp_path_factory.mktemp('copy')
    for name in ('nbs', 'lrprop'):
        shutil.copytree(ROOT/name, folder/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for name in ('settings.ini', 'README.md'): shutil.copy(ROOT/name, folder)
    return folder


def differences(a: Path, b: Path, pattern: str) -> list[str]:
    files = {p.relative_to(top) for top in (a, b) for p in top.rglob(pattern) if '.ipynb_checkpoints' not in p.parts}
    return [str(f) for f in sorted(files) if not ((a/f).exists() and (b/f).exists() and filecmp.cmp(a/f, b/f, shallow=False))]


def test_there_are_notebooks(): assert len(NOTEBOOKS) > 15


def test_export_leaves_no_difference(copy):
    shutil.rmtree(copy/'lrprop')
    (copy/'lrprop').mkdir()
    shutil.copy(ROOT/'lrprop/__init__.py', copy/'lrprop')
    run(BIN/'nbdev_export', cwd=copy)
    assert differences(ROOT/'lrprop', copy/'lrprop', '*.py') == []


def test_notebooks_are_clean(copy):
    run(BIN/'nbdev_clean', cwd=copy)
    assert differences(ROOT/'nbs', copy/'nbs', '*.ipynb') == []


@pytest.mark.parametrize('file', ['README.md', 'CONTRIBUTING.md'])
def test_page_is_its_notebook(file, tmp_path):
    run(sys.executable, 'tools/readme.py', tmp_path)
    assert (tmp_path/file).read_text(encoding='utf-8') == (ROOT/file).read_text(encoding='utf-8')


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(notebook):
    run(BIN/'nbdev_test', '--path', notebook, '--n_workers', '0', '--do_print')
