"""The command line, called as a test calls it, and as a shell finds it."""
import contextlib
import io
import sys
from pathlib import Path

from lrprop.cli import main

BIN = Path(sys.executable).parent
COMMAND = str(BIN/'lrprop')


def call(*words, status=0):
    "What a command prints, or the line it ends with if it must fail."
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err: returned = main([str(w) for w in words])
    assert returned == status, out.getvalue() + err.getvalue()
    return out.getvalue() if status == 0 else err.getvalue().splitlines()[-1]
