"""What of the style can be counted: checkers are silent, nothing grows too long, no dependency without a reason and a use, no chapter built on a later one, no command in the docs that the command line refuses, no loss without the plain version that its benchmark compares it with."""
import ast
import json
import re
import shlex
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import fields
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import tyro

from lrprop.cli import COMMANDS, Train
from lrprop.experiments import Experiment, resolve
from lrprop.methods import METHODS

ROOT = Path(__file__).parent.parent
CHECKED = ('nbs', 'lrprop', 'tests', 'tools', 'benchmarks', 'setup.py')
MODULES = [p for p in (ROOT/'lrprop').rglob('*.py') if p.name != '_modidx.py']
CHAPTERS = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))
PROGRAMS = {'ruff', 'mypy', 'jupyterlab', 'pytest-xdist', 'execnb'}  # run, not imported; execnb is what nbdev runs cells with


def read(path): return path.read_text(encoding='utf-8')


@pytest.mark.parametrize('words', [('ruff', 'check', '--output-format', 'concise', *CHECKED), ('mypy',)], ids=lambda words: words[0])
def test_checker_is_silent(words):
    done = subprocess.run([sys.executable, '-m', *words], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr


# Lengths, in lines
def test_files_are_short():
    most = dict.fromkeys(MODULES, 300) | {ROOT/'README.md': 120, ROOT/'CONTRIBUTING.md': 45}
    assert {str(p.relative_to(ROOT)): n for p, m in most.items() if (n := len(read(p).splitlines())) > m} == {}


def body(function):
    "Lines from the first statement to the last. A signature has one an argument, which says what that is."
    first = function.body[1 if ast.get_docstring(function) and len(function.body) > 1 else 0]
    return function.end_lineno - first.lineno + 1


def test_functions_are_short():
    "A kernel of Triton, which must be of one piece, may have 60."
    found = [(p, f, 60 if any('_kernel' in ast.unparse(d) for d in f.decorator_list) else 40) for p in MODULES for f in ast.walk(ast.parse(read(p))) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert {f'{p.stem}.{f.name}': body(f) for p, f, most in found if body(f) > most} == {}


# Dependencies
def settings():
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return config['DEFAULT']


def canonical(name): return re.sub('[-_.]+', '-', name).lower()
REQUIRED = {key.removesuffix('requirements').strip('_'): {canonical(re.split('[<>=]', r)[0]) for r in shlex.split(value)} for key, value in settings().items() if key.endswith('requirements')}  # extra, or '' → names


def code(path):
    "The Python of a file; of a notebook, each cell."
    if path.suffix == '.py': return [read(path)]
    return [re.sub(r'^[%!].*$', '', ''.join(c['source']), flags=re.M) for c in json.loads(read(path))['cells'] if c['cell_type'] == 'code']


def imports(path):
    "Modules that a file imports, wherever in it, or asks for by a name in quotes."
    for node in (node for cell in code(path) for node in ast.walk(ast.parse(cell))):
        if isinstance(node, ast.Import): yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level: yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split('.')[-1] in ('find_spec', 'import_module', 'importorskip', '_need'): yield from (a.value for a in node.args if isinstance(a, ast.Constant))


@cache
def imported():
    "Distributions that something here imports."
    files = [p for top in CHECKED for p in (ROOT/top, *(ROOT/top).rglob('*')) if p.suffix in ('.py', '.ipynb') and '.ipynb_checkpoints' not in p.parts]
    modules, of = {m.split('.')[0] for p in files for m in imports(p)}, packages_distributions()
    return {canonical(d) for m in modules for d in (m, *of.get(m, ()))}


@pytest.mark.parametrize('extra', REQUIRED)
def test_every_dependency_has_a_reason(extra):
    "A comment of settings.ini, of itself or of its extra."
    comments = re.findall(r'^#   ([^\s,]+(?:, [^\s,]+)*)  +\S', read(ROOT/'settings.ini'), re.M)
    reasoned = [canonical(name) for names in comments for name in names.split(', ')]
    assert [n for n in sorted(REQUIRED[extra]) if extra not in reasoned and not any(fnmatch(n, r) for r in reasoned)] == []


@pytest.mark.parametrize('extra', REQUIRED)
def test_every_dependency_is_used(extra): assert REQUIRED[extra] - imported() - PROGRAMS == set()


# Chapters
def test_a_chapter_exports_no_import_of_a_higher_number():
    "What is imported where a function is called, or only to test, may be of a later chapter."
    number = {f'lrprop.{m[1]}': p.stem[:2] for p in CHAPTERS if (m := re.search(r'^#\| default_exp (\S+)', '\n'.join(code(p)), re.M))}
    assert len(number) > 50
    exported = [(p, node) for p in CHAPTERS for cell in code(p) if '#| export' in cell for node in ast.parse(cell).body if isinstance(node, ast.ImportFrom)]
    assert [f'{p.stem}: {node.module}' for p, node in exported if number.get(node.module, '') > p.stem[:2]] == []


# Benchmarks
def test_every_loss_has_a_plain_version():
    "Which benchmarks/losses.py sets beside it."
    plain = {f.name for f in ast.parse(read(ROOT/'benchmarks'/'losses_plain.py')).body if isinstance(f, ast.FunctionDef)}
    assert {f'{method}_plain' for method in METHODS} <= plain


# Commands
def prose(path):
    "What a page says; of a notebook, each cell of text."
    if path.suffix == '.md': return [read(path)]
    return [''.join(c['source']) for c in json.loads(read(path))['cells'] if c['cell_type'] == 'markdown']


def commands():
    "Page and words of every `lrprop …` in a block of shell."
    for page in (ROOT/'README.md', ROOT/'CONTRIBUTING.md', *sorted((ROOT/'nbs').rglob('*.ipynb'))):
        for block in (b for text in prose(page) for b in re.findall(r'^```(?:sh|bash)\n(.*?)^```', text, re.M | re.S)):
            for line in block.replace('\\\n', ' ').splitlines():
                words = shlex.split(line, comments=True)
                if 'lrprop' in words: yield pytest.param(words[words.index('lrprop') + 1:], id=f'{page.stem}: {" ".join(words)[:60]}')


@pytest.mark.parametrize('words', list(commands()))
def test_the_command_line_takes_what_the_docs_show(words):
    if words == ['--version']: return
    command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog='lrprop', args=words)
    if isinstance(command, Train):
        given = {f.name: v for f in fields(Experiment) if (v := getattr(command, f.name, None)) is not None}
        resolve(Experiment(**given))
