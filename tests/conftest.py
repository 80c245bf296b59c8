import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path += [str(Path(__file__).parent.parent/folder) for folder in ('tools', 'tools/fuzz')]  # tests use them
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # threads that wait should sleep: the machine may be shared
if 'NUMBA_CACHE_DIR' not in os.environ:  # numba knows a changed cell, but not a changed cell that it calls
    os.environ['NUMBA_CACHE_DIR'] = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, os.environ['NUMBA_CACHE_DIR'], ignore_errors=True)
