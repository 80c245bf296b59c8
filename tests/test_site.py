"""The docs site: every link leads somewhere, nothing on a page is broken or too wide, search finds."""
import ast
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from browser import CHROMIUM, Browser

pytest.importorskip('pypandoc', reason='pandoc (pypandoc_binary of the extra [dev]) is not installed')
from bs4 import BeautifulSoup

ROOT = Path(__file__).parent.parent
SITE = ROOT/'_docs'
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on PATH; CHROMIUM=/path names one')
HREFS = [e['href'] for s in yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents'] for e in s['contents']]


def newest(*parts: Path) -> float: return max(f.stat().st_mtime for p in parts for f in ([p] if p.is_file() else p.rglob('*')) if f.suffix in ('.ipynb', '.py', '.html', '.css', '.js', '.yml', '.bib'))


@pytest.fixture(scope='module')
def site() -> Path:
    "The site as its sources would build it now; built from stored outputs if it is older."
    built = SITE/'search.js'
    if not built.exists() or built.stat().st_mtime < newest(ROOT/'nbs', ROOT/'lrprop', ROOT/'tools/docs', ROOT/'_quarto.yml'):
        done = subprocess.run([sys.executable, 'tools/docs/build.py'], cwd=ROOT, capture_output=True, text=True, timeout=1200, env=dict(os.environ, PATH=f'{Path(sys.executable).parent}:/usr/bin:/bin'), check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return SITE


@cache
def soup(file: Path) -> BeautifulSoup: return BeautifulSoup(file.read_text(encoding='utf-8'), 'html.parser')


@cache
def anchors(file: Path) -> list[str]: return [e['id'] for e in soup(file).select('[id]')]


def seen(site: Path) -> list[Path]:
    "Every page, and two of the sources, which are all alike."
    return [p for p in pages(site) if p.parent.name != 'source' or p.stem in ('softdtw', 'losses.tcc')]


def pages(site: Path) -> list[Path]: return sorted(site.rglob('*.html'))


def test_every_notebook_is_a_page_in_order():
    there = {p.relative_to(ROOT/'nbs').as_posix() for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts}
    assert set(HREFS) - {'api.qmd'} == there
    decades = [int(h[0]) for h in HREFS if h[0].isdigit()]
    assert decades == sorted(decades)


def test_no_link_is_dead(site):
    dead = []
    for page in pages(site):
        for tag, key in (('a', 'href'), ('link', 'href'), ('img', 'src'), ('script', 'src')):
            for e in soup(page).select(f'{tag}[{key}]'):
                if re.match(r'https?:|data:|mailto:', e[key]): continue
                path, _, anchor = unquote(e[key]).partition('#')
                target = (page.parent/path).resolve() if path else page
                if path.startswith('/') or not target.is_file() or (anchor and anchor not in anchors(target)): dead.append(f'{page.relative_to(site)}: {e[key]}')
    assert dead == []


def test_nothing_is_loaded_from_elsewhere_and_no_id_twice(site):
    for page in pages(site):
        assert [e for e in soup(page).select('link[href], img[src], script[src], iframe[src]') if re.match('https?:|//', e.get('href') or e.get('src'))] == [], page
        assert len(anchors(page)) == len(set(anchors(page))), (page, sorted({a for a in anchors(page) if anchors(page).count(a) > 1}))


def test_pages_say_nothing_of_the_machine_that_made_them(site):
    assert [str(f.relative_to(site)) for f in pages(site) if re.search(r'(?<!\w)/(work|root|Users|home/\w+)/', f.read_text(encoding='utf-8'))] == []


def test_numbered_captions_and_references(site):
    for page in pages(site):
        floats = soup(page).select('.float')
        assert all(f.select_one('.caption').get_text().split(': ', 1)[1].strip() for f in floats), page
        assert not re.search(r'(?<![\w@])@(fig|tbl|eq|sec)-\w', soup(page).select_one('article').get_text()) or page.name == 'contributing.html', page
    assert sum(len(soup(p).select('.float')) for p in pages(site)) >= 80


def test_every_public_name_is_in_the_index_and_has_its_source(site):
    import lrprop
    rows = {(r.find_previous('h2').get_text().removesuffix('#'), r.select('td')[0].get_text()): r for r in soup(site/'api.html').select('tbody tr')}
    for file in Path(lrprop.__file__).parent.rglob('*.py'):
        module = '.'.join(('lrprop', *file.relative_to(Path(lrprop.__file__).parent).with_suffix('').parts))
        code = file.read_text(encoding='utf-8')
        handed_on = {a.asname or a.name for node in ast.walk(ast.parse(code)) if isinstance(node, (ast.Import, ast.ImportFrom)) for a in node.names}
        for name in re.findall(r"'(\w+)'", (re.search(r'^__all__ = \[(.*?)\]', code, re.M | re.S) or ' ' * 2)[1]): assert (module, name) in rows or name in handed_on
    assert all(len(r.select('a')) == 2 and r.select('td')[1].get_text().strip() for r in rows.values()), [k for k, r in rows.items() if not r.select('td')[1].get_text().strip()]
    entry = soup(site/'softdtw.html').find(id='soft_dtw')
    link = entry.find_previous('a', string='source')['href']
    assert link.startswith('source/softdtw.html#L-') and 'def soft_dtw(' in soup(site/'source/softdtw.html').find(id=link.split('#')[1]).get_text()


@pytest.fixture(scope='module')
def browser():
    with Browser() as b: yield b


WIDE = '''[document.documentElement.scrollWidth - innerWidth, [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)]'''


@needs_chromium
@pytest.mark.parametrize(('width', 'phone', 'theme'), [(1280, False, 'light'), (390, True, 'dark')], ids=['desktop', 'phone'])
def test_every_page_in_a_browser(site, browser, width, phone, theme):
    browser.screen(width, 800, phone, theme)
    wrong = {}
    for page in seen(site):
        browser.errors.clear(); browser.requests.clear()
        browser.open(page)
        over, missing = browser.run(WIDE)
        outside = [u for u in browser.requests if not u.startswith(('file:', 'data:', 'blob:', 'about:'))]
        if over > 0 or missing or browser.errors or outside: wrong[page.name] = (over, missing, browser.errors[:], outside)
    assert wrong == {}


@needs_chromium
def test_search_and_theme_and_menu(site, browser):
    browser.screen(1280, 800)
    browser.open(site/'source/softdtw.html')
    def first(words):
        browser.run(f'(i => {{ i.value = {json.dumps(words)}; i.dispatchEvent(new Event("input")); }})(document.getElementById("site-search"))')
        browser.wait(f'document.getElementById("site-hits").dataset.shown === {json.dumps(words)}')
        return browser.run('document.querySelector("#site-hits a")?.href.split("/").at(-1)')
    assert first('soft_dtw') == 'softdtw.html#soft_dtw'
    assert first('open begin') and first('kendall').startswith('metrics.html')
    assert first('no such word anywhere') is None
    assert first('dtw_path') == 'dtw.html#dtw_path'
    browser.run('document.getElementById("site-search").focus()')
    browser.key('Enter')
    browser.wait('location.href.endsWith("dtw.html#dtw_path") && document.readyState === "complete"')
    ground = 'getComputedStyle(document.body).backgroundColor'
    light = browser.run(ground)
    browser.run('document.getElementById("site-theme").click()')
    assert browser.run(ground) != light
    browser.open(site/'losses.tcc.html')
    assert browser.run(ground) != light                              # remembered
    browser.run('document.getElementById("site-theme").click()')
    browser.screen(390, 800, True)
    assert browser.run('document.getElementById("site-pages").offsetHeight') == 0
    browser.run('document.getElementById("site-menu").click()')
    assert browser.run('document.querySelector("#site-pages [aria-current]").getBoundingClientRect().height') > 0
    assert browser.errors == []
