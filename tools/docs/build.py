"""Build the docs site in _docs/: with Quarto where it is installed, else with pandoc from nbdev's processed notebooks."""
import base64
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pypandoc
import yaml

ROOT = Path(__file__).parent.parent.parent
PROC, OUT, TEMPLATE = ROOT/'_proc', ROOT/'_docs', Path(__file__).with_name('page.html')
IMAGES = {'image/svg+xml': 'svg', 'image/png': 'png', 'image/jpeg': 'jpeg'}
FLOATS = {'fig': 'Figure', 'tbl': 'Table'}


def text(source) -> str: return ''.join(source) if isinstance(source, list) else source or ''


def fence(body: str, language: str) -> str:
    ticks = '`' * max([3] + [len(run) + 1 for run in re.findall('`{3,}', body)])
    return f'{ticks}{{.{language}}}\n{body}\n{ticks}\n'


def split_directives(source: str) -> tuple[dict, str]:
    "Leading '#| key: value' lines of a cell, and the rest."
    options, lines = {}, source.splitlines()
    while lines and (m := re.match(r'^#\|\s*([\w-]+):?\s*(.*)$', lines[0])):
        options[m[1]] = m[2].strip().strip('"')
        lines.pop(0)
    return options, '\n'.join(lines)


class Page:
    "One notebook as markdown, with its own numbering of figures, tables and equations."
    def __init__(self, path: Path):
        self.path, self.front, self.counts, self.references = path, {}, {}, {}
        cells = json.loads((PROC/path).read_text(encoding='utf-8'))['cells']
        parts = [getattr(self, c['cell_type'])(c, i) for i, c in enumerate(cells)]
        cross = r'(?<![\w\[])@((?:fig|tbl|eq|sec)-[\w-]*\w)'
        self.source = re.sub(cross, lambda m: f'[{self.references[m[1]]}](#{m[1]})' if m[1] in self.references else m[0], '\n\n'.join(parts))
        self.href = self.front.get('output-file', path.stem + '.html')

    def number(self, kind: str, label: str, name: str) -> str:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.references[label] = f'{name} {self.counts[kind]}'
        return self.references[label]

    def raw(self, cell: dict, i: int) -> str:
        source = text(cell['source'])
        if source.startswith('---'): self.front.update(yaml.safe_load(source.strip().strip('-')) or {})
        return ''

    def markdown(self, cell: dict, i: int) -> str:
        def equation(m): return f'::: {{#{m[2]} .equation}}\n{m[1]} [({self.number("eq", m[2], "Equation").split()[1]})]{{.eqno}}\n:::'
        return re.sub(r'(\$\$[^$]+\$\$)\s*\{#(eq-[\w-]+)\}', equation, text(cell['source']))

    def code(self, cell: dict, i: int) -> str:
        options, body = split_directives(text(cell['source']))
        if options.get('include') == 'false': return ''
        shown = fence(body, 'python') if options.get('echo') != 'false' and body.strip() else ''
        out = '\n'.join(self.output(o, f'{self.path.stem}-{i}-{j}') for j, o in enumerate(cell.get('outputs', [])))
        label = options.get('label', '')
        kind = label.split('-')[0]
        if kind in FLOATS and out:
            out = f'::: {{#{label} .float}}\n{out}\n\n[{self.number(kind, label, FLOATS[kind])}: {options.get(kind + "-cap", "")}]{{.caption}}\n:::\n'
        return f'{shown}\n{out}'

    def output(self, output: dict, name: str) -> str:
        if output['output_type'] == 'stream': return fence(text(output['text']).rstrip('\n'), 'output')
        data = output.get('data', {})
        for kind, suffix in IMAGES.items():
            if kind in data:
                file = OUT/'images'/f'{name}.{suffix}'
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(text(data[kind]).encode() if suffix == 'svg' else base64.b64decode(text(data[kind])))
                return f'![](images/{file.name})\n'
        if 'text/markdown' in data: return text(data['text/markdown']) + '\n'
        if 'text/html' in data: return '```{=html}\n<div class="wide">' + re.sub(r'<style scoped>.*?</style>', '', text(data['text/html']), flags=re.S) + '</div>\n```\n'
        return fence(text(data.get('text/plain')), 'output')


def pandoc(source: str, *arguments: str) -> str:
    done = subprocess.run([pypandoc.get_pandoc_path(), *arguments], input=source, text=True, capture_output=True, encoding='utf-8', check=True)
    if done.stderr: print(done.stderr)
    return done.stdout


def navigation(sections: list[dict], pages: dict[str, Page], here: Page) -> str:
    def link(p): return f'<li{" class=here" if p is here else ""}><a href="{p.href}">{html.escape(str(p.front.get("title", p.path.stem)))}</a></li>'
    return ''.join(f'<b>{html.escape(s["section"])}</b><ul>{"".join(link(pages[c]) for c in s["contents"])}</ul>' for s in sections)


def build() -> None:
    "Every page named in _quarto.yml's sidebar."
    config = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    if (ROOT/'nbs/images').is_dir(): shutil.copytree(ROOT/'nbs/images', OUT/'images')
    sections = config['website']['sidebar']['contents']
    pages = {c: Page(Path(c)) for s in sections for c in s['contents']}
    links = {name: page.href for name, page in pages.items()}
    index = []
    for page in pages.values():
        source = re.sub(r'\]\(([\w./-]+\.ipynb)(#[^)]*)?\)', lambda m: f'](./{links.get(m[1], m[1])}{m[2] or ""})', page.source)
        title = str(page.front.get('title', page.path.stem))
        body = pandoc(source, '-f', 'markdown', '-t', 'html5', '-s', '--mathml', '--toc', '--toc-depth=3', '--template', str(TEMPLATE), '--wrap=none',
            '-V', f'nav={navigation(sections, pages, page)}', '-V', f'site={config["website"]["title"]}',
            '--metadata', f'title={title}', '--metadata', f'description={page.front.get("description", "")}')
        (OUT/page.href).write_text(body, encoding='utf-8')
        index.append(dict(href=page.href, title=title, text=pandoc(body, '-f', 'html', '-t', 'plain', '--wrap=none')))
    (OUT/'search.js').write_text('window.SEARCH=' + json.dumps(index), encoding='utf-8')
    print(f'wrote {len(pages)} pages to {OUT.relative_to(ROOT)}/index.html')


def main() -> None:
    if shutil.which('quarto'): subprocess.run(['nbdev_docs'], cwd=ROOT, check=True)
    else:
        from nbdev.serve import proc_nbs
        proc_nbs(force=True)
        build()


if __name__ == '__main__': main()
