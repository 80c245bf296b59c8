"""Write README.md and CONTRIBUTING.md from nbs/index.ipynb and nbs/contributing.ipynb. Usage: python tools/readme.py [FOLDER]"""
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent


def to_root(markdown: str) -> str:
    "Links as they must be one folder up."
    return re.sub(r'\]\((?=images/|[\w./-]+\.ipynb)', '](nbs/', markdown.replace('](contributing.ipynb)', '](CONTRIBUTING.md)'))


def cell_to_markdown(cell) -> str:
    if cell.cell_type == 'markdown':
        return to_root(cell.source)
    if cell.source.startswith('#| hide') or cell.cell_type != 'code': return ''
    source = '\n'.join(line for line in cell.source.splitlines() if not line.startswith('#|'))
    parts = [] if '#| echo: false' in cell.source else [f'```python\n{source.strip()}\n```']
    for output in cell.outputs:
        data = output.get('data', {})
        if 'text/markdown' in data: parts.append(to_root(data['text/markdown']))
        elif 'text/plain' in data or output.output_type == 'stream':
            parts.append(f"```\n{(data.get('text/plain') or output.get('text')).rstrip()}\n```")
    return '\n\n'.join(parts)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    for name, file in (('index', 'README.md'), ('contributing', 'CONTRIBUTING.md')):
        cells = nbformat.read(ROOT/'nbs'/f'{name}.ipynb', as_version=4).cells
        note = f'<!-- Made from nbs/{name}.ipynb by tools/readme.py; edit that notebook. -->'
        (folder/file).write_text('\n\n'.join([note, *filter(None, map(cell_to_markdown, cells))]) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
