import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent.parent/folder) for folder in ('tools', 'tools/fuzz')]  # tests use them
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # threads that wait should sleep: the machine may be shared
if 'NUMBA_CACHE_DIR' not in os.environ:  # numba knows a changed cell, but not a changed cell that it calls
    os.environ['NUMBA_CACHE_DIR'] = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, os.environ['NUMBA_CACHE_DIR'], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items):
    "Of several processes (xdist) one takes all tests of a file, which may share what is slow to make; notebooks share nothing."
    for item in items:
        if item.path.name != 'test_notebooks.py': item.add_marker(pytest.mark.xdist_group(item.path.stem))
