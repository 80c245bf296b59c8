"""Install the built package into fresh environments and try it: python tools/matrix.py [--pythons PATH …] [--lowest] [--keep FOLDER]

Builds sdist and wheel, and the wheel again from the sdist. For every interpreter: a virtual environment, the wheel, `pip check`,
`import lrprop`, `lrprop --version`, `lrprop doctor`. With --lowest, the oldest versions that settings.ini allows instead of the newest, and tests on them.
Writes results/installs.json, one entry an interpreter; what has one is made anew. An environment takes 6 GB while it lives.
"""
import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT/'results'/'installs.json'
TRIES = {'import': ('-c', 'import lrprop'), 'import of the command line': ('-c', 'import lrprop.cli'), 'import of alignment': ('-c', 'import lrprop.align')}
TESTS = 'truth', 'seams', 'hostile', 'hostile_files', 'use', 'find'  # of what is installed: they need pytest and hypothesis, and nothing of a notebook


def call(*words: object, **how: object) -> str:
    "What a command prints; its error ends the program."
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, cwd=tempfile.gettempdir(), check=False, **how)
    if done.returncode: sys.exit(f'{shlex.join(map(str, words))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}')
    return done.stdout


def build(folder: Path) -> tuple[Path, Path]:
    "The sdist, and a wheel made from it alone."
    call(sys.executable, '-m', 'venv', folder/'build')
    python = folder/'build/bin/python'
    call(python, '-m', 'pip', 'install', '--quiet', 'build')
    call(python, '-m', 'build', '--outdir', folder/'dist', ROOT)  # sdist, then the wheel from the sdist
    return next((folder/'dist').glob('*.tar.gz')), next((folder/'dist').glob('*.whl'))


def lowest() -> list[str]:
    "The oldest versions that settings.ini allows."
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return [re.sub('>=([0-9.]+)', lambda m: '==' + m[1] + '.*', r) for r in shlex.split(config['DEFAULT']['requirements'])]


def seconds(python: Path, words: tuple[str, ...]) -> float:
    "Median time of three calls, after one that fills the caches."
    times = []
    for _ in range(4):
        start = time.perf_counter()
        call(python, *words)
        times.append(time.perf_counter() - start)
    return round(sorted(times[1:])[1], 2)


def tested(folder: Path, pins: list[str]) -> str:
    "How the tests end; they find the installed package, not the one beside them."
    call(folder/'bin/python', '-m', 'pip', 'install', '--quiet', '--no-cache-dir', 'pytest', 'hypothesis', *pins)
    return call(folder/'bin/pytest', '-q', '-p', 'no:cacheprovider', '-W', 'ignore', *(ROOT/f'tests/test_{name}.py' for name in TESTS)).splitlines()[-1]


def install(interpreter: str, wheel: Path, pins: list[str], folder: Path) -> dict:
    "What one fresh environment says."
    shutil.rmtree(folder, ignore_errors=True)
    call(interpreter, '-m', 'venv', folder)
    python, lrprop = folder/'bin/python', folder/'bin/lrprop'
    call(python, '-m', 'pip', 'install', '--quiet', '--no-cache-dir', '--upgrade', 'pip')
    call(python, '-m', 'pip', 'install', '--quiet', '--no-cache-dir', wheel, *pins)
    heavy = call(python, '-c', 'import sys, lrprop; print([m for m in ("torch", "numpy", "numba", "pandas") if m in sys.modules])').strip()
    if heavy != '[]': sys.exit(f'{interpreter}: import lrprop imports {heavy}')
    return dict(python=call(python, '-V').split()[1], lowest=bool(pins), pip_check=call(python, '-m', 'pip', 'check').strip(), version=call(lrprop, '--version').strip(),
                seconds={name: seconds(python, words) for name, words in TRIES.items()}, doctor=[line for line in call(lrprop, 'doctor').splitlines() if 'cache of' not in line],
                lrprop_files=len(list((folder/'lib').glob('python*/site-packages/lrprop/**/*.py'))), **(dict(tests=tested(folder, pins)) if pins else {}))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--pythons', nargs='+', default=[sys.executable], help='interpreters, each of another version')
    p.add_argument('--lowest', action='store_true', help='the oldest versions that settings.ini allows')
    p.add_argument('--keep', type=Path, help='leave the environments in this folder')
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sdist, wheel = build(folder)
        print(sdist.name, wheel.name, sep='\n')
        for interpreter in args.pythons:
            place = (args.keep or folder)/'environment'
            found = install(interpreter, wheel, lowest() if args.lowest else [], place)
            if not args.keep: shutil.rmtree(place)
            print(found['python'], found['pip_check'], found['seconds'], found['doctor'][-1], sep='   ', flush=True)
            record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
            record[found['python'] + ' lowest'*args.lowest] = found | dict(commit=call('git', '-C', ROOT, 'rev-parse', 'HEAD').strip())
            RECORD.write_text(json.dumps(record, indent=1) + '\n')


if __name__ == '__main__':
    main()
