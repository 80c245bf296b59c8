"""A notebook, as nbdev processed it, as pandoc's markdown: figures, tables and equations numbered, outputs written as files."""
import base64
import json
import re
from pathlib import Path

import yaml

IMAGES = {'image/svg+xml': 'svg', 'image/png': 'png', 'image/jpeg': 'jpeg'}
FLOATS = {'fig': 'Figure', 'tbl': 'Table'}


def text(source) -> str: return ''.join(source) if isinstance(source, list) else source or ''


def fence(body: str, kind: str) -> str:
    ticks = '`' * max([3] + [len(run) + 1 for run in re.findall('`{3,}', body)])
    return f'{ticks}{{.{kind}}}\n{body}\n{ticks}\n'


def raw(html: str) -> str: return f'\n````{{=html}}\n{html}\n````\n'


def anchor_of(name: str, names: set[str]) -> str:
    "nbdev's anchor of a name, in small letters; unless another of the same page is written so, as `vava` beside `VAVA`."
    return name if name.lower() in names else name.lower()


def split_directives(source: str) -> tuple[dict, str]:
    "Leading '#| key: value' lines of a cell, and the rest."
    options, lines = {}, source.splitlines()
    while lines and (m := re.match(r'^#\|\s*([\w-]+):?\s*(.*)$', lines[0])):
        options[m[1]] = yaml.safe_load(m[2]) if m[2][:1] in '"\'' and m[2] else m[2].strip()
        lines.pop(0)
    return options, '\n'.join(lines)


class Page:
    "One notebook as markdown, with its own numbering of figures, tables and equations."
    def __init__(self, path: Path, source: Path, out: Path):
        self.path, self.out, self.front, self.counts, self.references, self.entries = path, out, {}, {}, {}, set()
        if path.suffix == '.ipynb': self.cells = json.loads(source.read_text(encoding='utf-8'))['cells']
        else: self.cells = [dict(cell_type='raw', source=part) if i == 0 else dict(cell_type='markdown', source=part)
                            for i, part in enumerate(source.read_text(encoding='utf-8').split('\n---\n', 1))]
        self.shown = {m[1] for c in self.cells for m in [re.search(r'show_doc\(([\w.]+)', text(c['source']))] if m}
        parts = [getattr(self, f'_{c["cell_type"]}')(c, i) for i, c in enumerate(self.cells)]
        cross = r'(?<![\w\[])@((?:fig|tbl|eq|sec)-[\w-]*\w)'
        self.source = re.sub(cross, lambda m: f'[{self.references[m[1]]}](#{m[1]})' if m[1] in self.references else m[0], '\n\n'.join(parts))
        def section(m):  # a section and an entry of one name
            anchor = re.sub(r'^[^a-z]+', '', re.sub(r'[^\w\s.-]', '', m[1]).strip().lower()).replace(' ', '-')
            return f'{m[0]} {{#about-{anchor}}}' if anchor in self.entries else m[0]
        self.source = re.sub(r'(?m)^#+ ([^{\n]+)$', section, self.source)
        if re.search(r'(?<!\w)@[a-z]+\d{4}', self.source): self.source += '\n\n## References\n\n::: {#refs}\n:::\n'
        self.href = (path.parent/self.front.get('output-file', path.stem + '.html')).as_posix()
        self.title, self.description = (str(self.front.get(key) or '') for key in ('title', 'description'))

    def _number(self, kind: str, label: str, name: str) -> str:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.references[label] = f'{name} {self.counts[kind]}'
        return self.references[label]

    def _raw(self, cell: dict, i: int) -> str:
        source = text(cell['source'])
        if source.startswith('---'): self.front.update(yaml.safe_load(source.strip().strip('-')) or {})
        return ''

    def _markdown(self, cell: dict, i: int) -> str:
        def equation(m): return f'::: {{#{m[2]} .equation}}\n{m[1]} [({self._number("eq", m[2], "Equation").split()[1]})]{{.eqno}}\n:::'
        return re.sub(r'(\$\$[^$]+\$\$)\s*\{#(eq-[\w-]+)\}', equation, text(cell['source']))

    def _code(self, cell: dict, i: int) -> str:
        options, body = split_directives(text(cell['source']))
        if options.get('include') == 'false': return ''
        shown = fence(body, 'python') if options.get('echo') != 'false' and body.strip() else ''
        if 'code-fold' in options:
            opened = ' open' if options['code-fold'] == 'show' else ''
            shown = raw(f'<details class="fold"{opened}><summary>{options.get("code-summary", "Code")}</summary>') + shown + raw('</details>')
        outputs = [self._output(o, f'{self.path.stem}-{i}-{j}') for j, o in enumerate(cell.get('outputs', []))]
        if body.startswith('show_doc('): outputs = [self._doc(o, i) for o in outputs]
        out, label = '\n'.join(outputs), options.get('label', '')
        kind = label.split('-')[0]
        if kind in FLOATS and out:
            caption = f'[{self._number(kind, label, FLOATS[kind])}: {options.get(kind + "-cap", "")}]{{.caption}}'
            inside = f'{caption}\n\n{out}' if kind == 'tbl' else f'{out}\n\n{caption}'
            out = f'::: {{#{label} .float}}\n{inside}\n:::\n'
        return f'{shown}\n{out}'

    def _doc(self, output: str, i: int) -> str:
        "nbdev's entry of a name: no links inside code; where the source follows, the signature is not shown twice."
        followed = any('code-fold' in split_directives(text(c['source']))[0] for c in self.cells[i + 1:i + 2] if c['cell_type'] == 'code')
        signature = r'(```python\n.*?\n```)'
        output = re.sub(signature, '' if followed else lambda m: re.sub(r'\[(`[^`]*`)\]\([^)]*\)', r'\1', m[1]), output, count=1, flags=re.S)
        name = re.search(r'(?m)^#+ (\S+)$', output)
        if not name: return output
        self.entries.add(anchor := anchor_of(name[1].replace('\\', ''), self.shown))
        return output.removeprefix('---\n').replace(name[0], f'### {name[1]} {{#{anchor} .api}}', 1)

    def _output(self, output: dict, name: str) -> str:
        if output['output_type'] == 'stream': return fence(re.sub(r'\x1b\[[\d;]*m', '', text(output['text'])).rstrip('\n'), 'output')
        data = output.get('data', {})
        for kind, suffix in IMAGES.items():
            if kind in data:
                file = self.out/self.path.parent/'images'/f'{name}.{suffix}'
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(text(data[kind]).encode() if suffix == 'svg' else base64.b64decode(text(data[kind])))
                return f'![](images/{file.name})\n'
        if 'text/markdown' in data: return text(data['text/markdown']) + '\n'
        if 'text/html' in data: return raw(re.sub(r'<style scoped>.*?</style>', '', text(data['text/html']), flags=re.S))
        return fence(text(data.get('text/plain')), 'output')
