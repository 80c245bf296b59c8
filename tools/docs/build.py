"""Build the docs site in _docs/: with Quarto where it is installed, else with pandoc, from the outputs stored in the notebooks (nothing is trained or drawn)."""
import configparser
import html
import json
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pypandoc
import yaml
from bs4 import BeautifulSoup
from names import all_lines, module_files, write_index
from notebook import Page, fence

ROOT, HERE = Path(__file__).resolve().parent.parent.parent, Path(__file__).resolve().parent
PROC, OUT = ROOT/'_proc', ROOT/'_docs'
SETTINGS = configparser.ConfigParser(interpolation=None)
SETTINGS.read(ROOT/'settings.ini', encoding='utf-8')
PACKAGE = ROOT/SETTINGS['DEFAULT']['lib_path']
CODE_URL = '{git_url}/blob/{branch}'.format(**SETTINGS['DEFAULT'])


def read_config() -> tuple[dict, list[tuple[str, list[dict]]]]:
    "The site's settings, and its sections: each page as href and text."
    config = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))
    def entry(c): return c if isinstance(c, dict) else dict(href=c)
    return config, [(s['section'], [entry(c) for c in s['contents']]) for s in config['website']['sidebar']['contents']]


def pandoc(source: str, *arguments: str) -> str:
    command = [pypandoc.get_pandoc_path(), '-f', 'markdown', '-t', 'html5', '--mathml', '--wrap=none', *arguments]
    done = subprocess.run(command, input=source, text=True, capture_output=True, encoding='utf-8', cwd=ROOT/'nbs', check=False)
    if done.returncode or done.stderr: raise RuntimeError(f'pandoc: {done.stderr}\n{source[:300]}')
    return done.stdout


class Site:
    "What every page needs to know of the others."
    def __init__(self):
        self.config, self.sections = read_config()
        self.names = write_index(PACKAGE, ROOT/'nbs/api.qmd', CODE_URL)
        entries = [e for _, entries in self.sections for e in entries]
        self.pages = {e['href']: Page(Path(e['href']), (ROOT/'nbs' if e['href'].endswith('.qmd') else PROC)/e['href'], OUT) for e in entries}
        for e in entries: self.pages[e['href']].short = e.get('text') or self.pages[e['href']].title
        self.template, self.order, self.index = (HERE/'page.html').read_text(encoding='utf-8'), list(self.pages.values()), []
        self.lines = all_lines(PACKAGE)
        self.modules = {file: m for m, file in module_files(PACKAGE).items()}

    def navigation(self, href: str, root: str) -> str:
        "The sidebar: the section of the page is open, the page marked."
        def link(p): return f'<li><a href="{root}{p.href}"{" aria-current=page" if p.href == href else ""}>{html.escape(p.short)}</a></li>'
        def section(name, entries):
            pages = [self.pages[e['href']] for e in entries]
            return f'<details{" open" if href in [p.href for p in pages] else ""}><summary>{name}</summary><ul>{"".join(map(link, pages))}</ul></details>'
        return ''.join(section(*s) for s in self.sections)

    def target(self, page: Page, url: str) -> str:
        "Where a link of a page leads within the site; no link of the site is absolute."
        path, mark, anchor = url.partition('#')
        root = os.path.relpath('.', page.path.parent) + '/' if page.path.parent != Path() else ''
        if url.startswith(CODE_URL):
            file = ROOT/path[len(CODE_URL) + 1:]
            return f'{root}source/{self.modules[file]}.html#{anchor.replace("L", "L-", 1)}' if file in self.modules else url
        if path.startswith('/'):  # as nbdev writes a name in back-ticks
            there = next((p for p in self.order if p.href == path[1:]), None)
            module, line = self.lines.get(url[1:], ('', 0))
            return f'{root}source/{module}.html#L-{line}' if module and anchor not in there.entries else root + url[1:]
        if path.endswith(('.ipynb', '.qmd')) and '://' not in path:
            key = os.path.normpath(page.path.parent/path)
            return (root + self.pages[key].href if key in self.pages else path) + mark + anchor
        return url

    def write(self, href: str, body: str, **fields: str) -> None:
        root = '../'*href.count('/')
        fields = dict(dict(toc='', module='', description='', around=''), root=root, site=self.config['website']['title'], nav=self.navigation(href, root), body=body, **fields)
        (OUT/href).parent.mkdir(parents=True, exist_ok=True)
        (OUT/href).write_text(re.sub(r'\{\{(\w+)\}\}', lambda m: fields[m[1]], self.template), encoding='utf-8')

    def write_page(self, page: Page) -> None:
        toc, body = pandoc(page.source, '-s', '--toc', '--toc-depth=3', f'--template={HERE/"body.html"}', '-M', 'title=-', '--citeproc', '--bibliography=references.bib', '-M', 'link-citations=true').split('<!--body-->')
        soup = BeautifulSoup(body, 'html.parser')
        for a in soup.select('[href]'): a['href'] = self.target(page, a['href'])
        for code in soup.select('p code, li code'):  # chapters by the name of their notebook
            key = f'{code.get_text()}.ipynb'
            if key in self.pages and not code.find_parent('a'): code.wrap(soup.new_tag('a', attrs={'href': self.target(page, os.path.relpath(key, page.path.parent))}))
        _boxes(soup)
        self.index += _entries(page, soup, {n.anchor for n in self.names})
        names = {n.module for n in self.names if n.anchor.split('#')[0] == page.href}
        module = ''.join(f'<code>{PACKAGE.name}.{m}</code>' for m in names)
        def near(p, rel, mark): return f'<a rel="{rel}" href="{os.path.relpath(p.href, Path(page.href).parent)}">{mark.format(html.escape(p.short))}</a>'
        i = self.order.index(page)
        around = near(self.order[i - 1], 'prev', '← {}') if i else '<span></span>'
        if page is not self.order[-1]: around += near(self.order[i + 1], 'next', '{} →')
        inline = pandoc(page.description).removeprefix('<p>').removesuffix('</p>\n') if page.description else ''
        title = page.title if ' ' in page.title else page.short
        toc = toc.strip() and f'<details class="toc" open><summary>On this page</summary>{toc}</details>'
        self.write(page.href, str(soup), title=html.escape(title), description=inline, module=module, around=around, toc=toc)

    def write_source(self, file: Path) -> None:
        "An exported module, its lines numbered: what 'source' leads to."
        module, text = self.modules[file], file.read_text(encoding='utf-8')
        body = pandoc(fence(text.rstrip('\n'), 'python').replace('{.python}', '{#L .python .numberLines .lineAnchors}', 1))
        self.write(f'source/{module}.html', body, title=f'{PACKAGE.name}.{module}', description='The module as the notebooks export it.')

    def write_search(self) -> None:
        names = [dict(kind='name', title=n.name, page=f'{PACKAGE.name}.{n.module}', href=n.anchor or f'source/{n.module}.html#L-{n.line}', text=n.about) for n in self.names]
        index = names + sorted(self.index, key=lambda e: e['kind'] != 'page')
        (OUT/'search.js').write_text('window.SEARCH=' + json.dumps(index, ensure_ascii=False).replace('</', '<\\/'), encoding='utf-8')


def _boxes(soup: BeautifulSoup) -> None:
    "What may be wider than a phone scrolls in a box of its own; figures say what they show; callouts have a title."
    for wide in soup.select('table, math[display=block]'):
        if wide.find_parent('table') is None: wide.wrap(soup.new_tag('div' if wide.name == 'table' else 'span', attrs={'class': 'scroll', 'tabindex': '0'}))
    for image in soup.select('img'):
        image['loading'] = 'lazy'
        caption = (image.find_parent(class_='float') or soup.new_tag('i')).select_one('.caption')
        if not image.get('alt'): image['alt'] = caption.get_text() if caption else 'The output of the code above.'
    for box in soup.select('[class*=callout-]'):
        kind = re.search(r'callout-(\w+)', ' '.join(box['class']))[1]
        title = box.find(['h2', 'h3', 'h4'], recursive=False) or soup.new_tag('p', string=box.attrs.pop('data-title', box.attrs.pop('title', kind.capitalize())))
        title.name, title['class'] = 'p', 'callout-title'
        box.insert(0, title.extract())
    for heading in soup.select('h2[id], h3[id], h4[id]'): heading.append(soup.new_tag('a', attrs={'class': 'anchor', 'href': '#' + heading['id'], 'aria-label': 'Link to this section'}, string='#'))


def _entries(page: Page, soup: BeautifulSoup, known: set[str]) -> list[dict]:
    "What the search finds on a page: the page, its sections, and entries of names that are not in the index of names."
    entries = [dict(kind='page', title=page.short, page=page.title, href=page.href, text=[page.description])]
    for node in soup.find_all(['h2', 'h3', 'h4', 'p', 'li', 'td'], recursive=True):
        if node.name[0] == 'h' and node.get('id'):
            kind, href = 'name' if 'api' in node.get('class', ()) else 'section', f'{page.href}#{node["id"]}'
            if href not in known: entries.append(dict(kind=kind, title=node.get_text().removesuffix('#'), page=page.short, href=href, text=[]))
        elif page.path.suffix == '.ipynb' and not node.find_parent(['li', 'td']): entries[-1]['text'].append(node.get_text())
    return [{**e, 'text': ' '.join(' '.join(e['text']).split())[:3000]} for e in entries]


def build() -> None:
    "Every page of _quarto.yml's sidebar, the sources, the search index."
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    for folder in (ROOT/'nbs').rglob('images'): shutil.copytree(folder, OUT/folder.relative_to(ROOT/'nbs'), dirs_exist_ok=True)
    for name in ('site.css', 'site.js'): shutil.copy(HERE/name, OUT)
    site = Site()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(lambda job: job[0](job[1]), [*((site.write_page, p) for p in site.order), *((site.write_source, f) for f in site.modules)]): pass
    site.write_search()
    print(f'wrote {len(site.order)} pages to {OUT.relative_to(ROOT)}/index.html')


def main() -> None:
    os.environ['PYTHONPATH'] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])  # document this checkout, whichever is installed
    if shutil.which('quarto'):
        write_index(PACKAGE, ROOT/'nbs/api.qmd', CODE_URL)
        subprocess.run(['nbdev_proc_nbs', '--force'], cwd=ROOT, check=True)  # not nbdev_docs: it writes a README.md of its own
        subprocess.run(['quarto', 'render', '--no-cache'], cwd=PROC, check=True)
        shutil.rmtree(OUT, ignore_errors=True)
        shutil.move(PROC/OUT.name, OUT)
    else:
        from nbdev.serve import proc_nbs
        proc_nbs(force=True)
        build()


if __name__ == '__main__': main()
