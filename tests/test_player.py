"""The player in a real browser: what is on screen is what the path says."""
import base64
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import numpy as np
import pytest
from PIL import Image

from browser import CHROMIUM, Browser
from lrprop.align import Alignment, align
from lrprop.core import Video
from lrprop.player import _frame, player, write_player

ROOT = Path(__file__).parent.parent
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on PATH; CHROMIUM=/path names one')
BITS, STRIPE = 10, 16
HOSTILE = '</script><img src=x onerror="window.hacked=1">\'"&{{data}}${1}.mp4'
P = 'document.getElementById("player").player'
# One pixel of a canvas (of its width and height) as RGBA, and the number that the stripes of each video show.
PIXEL = '''((c, x, y) => { const o = new OffscreenCanvas(1, 1).getContext("2d"); o.drawImage(c, -Math.floor(x*c.width), -Math.floor(y*c.height)); return [...o.getImageData(0, 0, 1, 1).data]; })'''
READ = f'''[...document.querySelectorAll(".lrp-screen canvas")].map(c => [...Array({BITS}).keys()].reduce((sum, b) => sum + ({PIXEL}(c, (b + .5)/{BITS}, .5)[0] > 127 ? 2**b : 0), 0))'''


class Marked:
    "A clip whose frame k shows k in binary, as black and white stripes."
    def __init__(self, n, height=48): self.n, self.height = n, height
    def __len__(self): return self.n
    def __getitem__(self, indices):
        bits = (np.asarray(indices)[:, None] >> np.arange(BITS)) & 1
        return np.broadcast_to(np.repeat(bits, STRIPE, 1)[:, None, :, None]*255, (len(indices), self.height, BITS*STRIPE, 3)).astype('uint8')


def clip(name, n, power=1., fps=25., height=48):
    clock = np.linspace(0, 1, n)**power
    return Video(name, Marked(n, height), phases=np.searchsorted([.2, .5, .8], clock, 'right'), progress=clock, fps=fps)


def pair(x, y): return align(*(np.stack([np.cos(3*v.progress), np.sin(3*v.progress)], 1) for v in (x, y)))


CLIPS = [clip('first', 120), clip('second', 90, 1.7, 30, 96), clip('third', 140, .6, 50)]
ALIGNMENTS = [pair(CLIPS[0], y) for y in CLIPS[1:]]
FRAMES = np.stack([np.arange(120), *(a.warp() for a in ALIGNMENTS)], 1)


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    "Three aligned clips; neither path is the diagonal."
    assert all(np.abs(FRAMES[:, j]/FRAMES[-1, j] - np.arange(120)/119).max() > .1 for j in (1, 2))
    return write_player(tmp_path_factory.mktemp('player')/'clips.html', CLIPS, ALIGNMENTS, phase_names=['rise', 'hold'], title='Three clips', progress=False)


@pytest.fixture(scope='module')
def chromium():
    with Browser() as browser: yield browser


@pytest.fixture
def browser(chromium):
    "A Chromium of which nothing is remembered; a test leaves no error and nothing fetched from elsewhere."
    chromium.errors.clear(); chromium.requests.clear()
    chromium.screen()
    yield chromium
    assert chromium.errors == []
    assert [url for url in chromium.requests if not url.startswith(('file:', 'data:', 'blob:'))] == []


def show(browser, path):
    browser.open(path)
    browser.wait('document.getElementById("player")?.player !== undefined')
    browser.run(f'{P}.ready.then(() => 1)')


def at(browser, moment):
    "Wait until a moment is shown, and check every picture."
    browser.wait(f'{P}.moment === {moment}')
    assert browser.run(READ) == browser.run(f'{P}.frames') == FRAMES[moment].tolist()


def box(browser, selector, nth=0):
    return browser.run(f'(() => {{ const e = document.querySelectorAll({json.dumps(selector)})[{nth}]; e.scrollIntoView({{block: "center"}}); const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; }})()')


@needs_chromium
def test_seek_shows_the_frames_of_the_path(browser, page):
    show(browser, page)
    at(browser, 0)
    for moment in (119, 60, 61, 7, 90, 33):
        browser.run(f'{P}.seek({moment}).then(() => 1)')
        at(browser, moment)
    times = browser.run('[...document.querySelectorAll(".lrp-time")].map(e => e.textContent)')
    assert times == [f'{k/v.fps:.2f} s · {k} / {len(v) - 1}' for k, v in zip(FRAMES[33].tolist(), CLIPS)]
    phases = browser.run('[...document.querySelectorAll(".lrp-phase")].map(e => e.textContent)')
    assert phases == [{0: 'rise', 1: 'hold'}.get(p := v.phases[k], f'phase {p}') for k, v in zip(FRAMES[33], CLIPS)]
    browser.run(f'[...Array(100).keys()].forEach(m => {P}.seek(m)), {P}.seek(1e9), {P}.seek(NaN)')  # many at once: the last one counts
    at(browser, 0)


@needs_chromium
def test_pixels_of_the_screen(browser, page, tmp_path):
    show(browser, page)
    browser.run(f'{P}.seek(77).then(() => 1)')
    boxes = [box(browser, '.lrp-screen canvas', j) for j in range(3)]
    shot = np.asarray(Image.open(browser.picture(tmp_path/'shot.png', whole=False)).convert('L'))
    seen = [sum(2**b for b in range(BITS) if shot[int(y + h/2), int(x + w*(b + .5)/BITS)] > 127) for x, y, w, h in boxes]
    assert seen == FRAMES[77].tolist()


@needs_chromium
def test_play_keeps_to_the_path_and_the_clock(browser, page):
    show(browser, page)
    browser.run(f'document.querySelector(".lrp-controls select").value = "2"; document.querySelector(".lrp-controls select").dispatchEvent(new Event("change")); {P}.seek(40).then(() => 1)')
    browser.run(f'''window.seen = []; document.getElementById("player").addEventListener("moment", e => seen.push([e.detail, performance.now(), {P}.frames, {READ}]));
        window.start = performance.now(); document.querySelector(".lrp-play").click()''')
    assert browser.run(f'{P}.playing') and browser.run('document.querySelector(".lrp-play").getAttribute("aria-label")') == 'pause'
    browser.wait(f'!{P}.playing && {P}.moment === 119', 60)
    seen, start = browser.run('seen'), browser.run('start')
    moments = [m for m, *_ in seen]
    assert moments == sorted(set(moments)) and moments[0] >= 40 and moments[-1] == 119 and len(moments) > 5
    for moment, now, frames, read in seen:
        assert frames == read == FRAMES[moment].tolist()
        assert moment - 40 <= (now - start)/1000*50 + 1  # 25 frames a second, twice as fast; never ahead of the clock
    browser.run('document.querySelector(".lrp-play").click()')  # from the end it begins again
    browser.wait(f'{P}.playing && {P}.moment < 100')
    browser.run(f'{P}.pause()')


@needs_chromium
def test_repeat(browser, page):
    show(browser, page)
    browser.run(f'{P}.seek(112).then(() => 1)')
    browser.key('r')
    assert browser.run('document.querySelector(".lrp-repeat").getAttribute("aria-pressed")') == 'true'
    browser.key(' ')
    browser.wait(f'{P}.moment < 60')
    assert browser.run(f'{P}.playing')
    browser.key(' ')
    assert not browser.run(f'{P}.playing')


@needs_chromium
def test_click_in_the_matrix(browser, page):
    show(browser, page)
    x, y, w, h = box(browser, '.lrp-canvas')
    browser.click(x + w*(90 + .5)/120, y + h/3)
    at(browser, 90)
    browser.click(x + w*(30 + .5)/120, y + h/2, to=(x + w*(50 + .5)/120, y + h/2))
    at(browser, 50)
    select = '.lrp-matrix select'
    assert browser.run(f'[...document.querySelector("{select}").options].map(o => o.textContent)') == ['second', 'third']
    browser.run(f'document.querySelector("{select}").value = 1; document.querySelector("{select}").dispatchEvent(new Event("change"))')
    browser.wait(f'document.querySelector(".lrp-note").textContent.startsWith("frame 50 ↔ {FRAMES[50, 2]} · distance {ALIGNMENTS[1].cost[50, FRAMES[50, 2]]:.3f}")')


@needs_chromium
@pytest.mark.parametrize('j', [0, 1])
def test_matrix_shows_path_and_cursor(browser, page, j):
    show(browser, page)
    browser.run(f'{P}.choose({j}).then(() => {P}.seek(30)).then(() => 1)')
    def pixel(x, y): return browser.run(f'{PIXEL}(document.querySelector(".lrp-canvas"), {x}, {y})')[:3]
    cost, n = ALIGNMENTS[j].cost, len(CLIPS[j + 1])
    def place(k, i): return (k + .5)/120, 1 - (i + .5)/n
    assert pixel(*place(*ALIGNMENTS[j].path[len(ALIGNMENTS[j].path)*3//4])) == [0xd5, 0x5e, 0x00] # the path
    assert pixel(*place(30, FRAMES[30, j + 1])) == [0x00, 0x72, 0xb2]                               # the cursor
    for k, i in ((100, 10), (10, n - 12)):
        grey = 255*(cost.max() - cost[k, i])/(cost.max() - cost.min())
        assert abs(pixel(*place(k, i))[0] - grey) < 12


@needs_chromium
def test_click_in_a_videos_own_time(browser, page):
    show(browser, page)
    x, y, w, h = box(browser, '.lrp-video .lrp-strip', 1)
    browser.click(x + w*45.5/90, y + h/2)
    browser.wait(f'Math.abs({P}.frames[1] - 45) <= 1')
    moment = browser.run(f'{P}.moment')
    at(browser, moment)
    assert abs(FRAMES[moment, 1] - 45) == abs(FRAMES[:, 1] - 45).min()


@needs_chromium
def test_keyboard(browser, page):
    show(browser, page)
    phases = CLIPS[0].phases
    edges = np.flatnonzero(np.diff(phases)) + 1
    for key, shift, moment in [('ArrowRight', False, 1), ('ArrowRight', True, 26), ('ArrowLeft', False, 25), ('End', False, 119), ('ArrowRight', False, 119), ('ArrowLeft', True, 94),
                               ('Home', False, 0), ('ArrowLeft', False, 0), ('ArrowUp', False, edges[0]), ('ArrowUp', False, edges[1]), ('ArrowDown', False, edges[0]), ('PageUp', False, edges[0] + 25), ('PageDown', False, edges[0])]:
        browser.key(key, shift)
        at(browser, moment)
    browser.key(' ')
    browser.wait(f'{P}.playing && {P}.moment > {edges[0] + 2}')
    browser.key(' ')
    assert not browser.run(f'{P}.playing')
    browser.run('document.querySelector("input").focus()')          # on the scrubber each key works once
    moment = browser.run(f'{P}.seek(20).then(() => 20)')
    browser.key('ArrowRight'); at(browser, moment + 1)
    browser.run('document.querySelector(".lrp-next").focus()')      # on a button the space bar presses it, and does not play
    browser.key(' '); at(browser, moment + 2)
    assert not browser.run(f'{P}.playing')
    x, y, w, h = box(browser, '.lrp-back')
    browser.click(x + w/2, y + h/2); at(browser, moment + 1)        # clicked with the mouse, it gives the space bar back
    browser.key(' ')
    assert browser.run(f'{P}.playing')
    browser.run(f'{P}.pause()')


@needs_chromium
def test_scrubber(browser, page):
    show(browser, page)
    assert browser.run('[document.querySelector("input").min, document.querySelector("input").max]') == ['0', '119']
    x, y, w, h = box(browser, 'input')
    browser.click(x + w/2, y + h/2)
    browser.wait(f'Math.abs({P}.moment - 60) < 4')
    at(browser, browser.run(f'{P}.moment'))
    browser.run('document.querySelector("input").value = 88; document.querySelector("input").dispatchEvent(new Event("input"))')
    at(browser, 88)


LUMINANCE = '''(color => color.match(/[\\d.]+/g).slice(0, 3).map(v => (v /= 255) <= .04045 ? v/12.92 : ((v + .055)/1.055)**2.4).reduce((sum, v, c) => sum + v*[.2126, .7152, .0722][c], 0))'''


@needs_chromium
@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_light_and_dark(browser, page, theme):
    other = {'light': 'dark', 'dark': 'light'}[theme]
    def lightness(): return browser.run(f'{LUMINANCE}(getComputedStyle(document.body).backgroundColor)')
    browser.screen(theme=theme)
    show(browser, page)
    assert (lightness() > .5) == (theme == 'light')
    contrasts = browser.run(f'''[".lrp-time", ".lrp-name b", ".lrp-clock", ".lrp-note", "h1", "summary"].map(s => {{
        const {{color}} = getComputedStyle(document.querySelector(s)), back = {LUMINANCE}(getComputedStyle(document.getElementById("player")).backgroundColor), text = {LUMINANCE}(color);
        return (Math.max(back, text) + .05)/(Math.min(back, text) + .05); }})''')
    assert min(contrasts) >= 4.5                                     # WCAG 2, level AA
    browser.run('document.querySelector(".lrp-theme").click()')
    assert (lightness() > .5) == (other == 'light')
    browser.key('t')
    assert (lightness() > .5) == (theme == 'light')
    browser.screen(theme=other)                                      # the system changes its mind
    browser.wait(f'document.getElementById("player").dataset.theme === "{other}"')


@needs_chromium
@pytest.mark.parametrize('width', [320, 390, 844])
def test_phone(browser, page, width):
    browser.screen(width, 844 if width < 844 else 390, phone=True, scale=2)
    show(browser, page)
    assert browser.run('document.documentElement.scrollWidth') <= browser.run('innerWidth') == width
    inside = browser.run(f'[...document.querySelectorAll(".lrp *")].filter(e => !e.closest(".lrp-status") && e.getBoundingClientRect().right > {width} + .5).map(e => e.className)')
    assert inside == []
    small = browser.run('[...document.querySelectorAll("button, select, input")].map(e => [e.className, e.offsetWidth, e.offsetHeight]).filter(([_, w, h]) => w < 40 || h < 40)')
    assert small == []
    parts = browser.run('[...document.querySelectorAll(".lrp-controls > *")].map(e => e.getBoundingClientRect()).map(b => [b.left, b.top, b.right, b.bottom])')
    assert not [(a, b) for a in parts for b in parts if a is not b and a[0] < b[2] - 1 and b[0] < a[2] - 1 and a[1] < b[3] - 1 and b[1] < a[3] - 1]
    assert browser.run('(({scrollWidth, clientWidth}) => scrollWidth <= clientWidth)(document.querySelector(".lrp-clock"))')
    x, y, w, h = box(browser, '.lrp-canvas')
    browser.tap(x + w*(80 + .5)/120, y + h/2)
    at(browser, 80)
    x, y, w, h = box(browser, '.lrp-next')
    browser.tap(x + w/2, y + h/2)
    at(browser, 81)


@needs_chromium
def test_accessible(browser, page):
    show(browser, page)
    nodes = browser.send('Accessibility.getFullAXTree')['nodes']
    controls = [(n['role']['value'], n.get('name', {}).get('value', '')) for n in nodes if n.get('role', {}).get('value') in ('button', 'slider', 'combobox', 'image') and not n['ignored']]
    assert {role for role, _ in controls} == {'button', 'slider', 'combobox', 'image'} and all(name for _, name in controls)
    browser.run(f'{P}.seek(33).then(() => 1)')
    assert browser.run('document.querySelector("input").getAttribute("aria-valuetext")') == '1.32 s, frame 33 of 119'
    said = 'document.querySelector("[aria-live=polite]").textContent'
    assert browser.run(said) == ', '.join(f'{v.name}: {k/v.fps:.2f} s' for k, v in zip(FRAMES[33], CLIPS))
    browser.key(' ')
    browser.wait(f'{P}.moment > 40')
    assert 'first: 1.32 s' in browser.run(said)                      # silent while it plays
    browser.key(' ')
    for _ in range(8):
        browser.key('Tab')
        assert browser.run('document.activeElement === document.body || parseFloat(getComputedStyle(document.activeElement).outlineWidth) >= 2')
    browser.send('Emulation.setEmulatedMedia', features=[dict(name='prefers-reduced-motion', value='reduce')])
    assert browser.run('[...document.querySelectorAll(".lrp *")].every(e => getComputedStyle(e).transitionProperty === "none" || getComputedStyle(e).transitionDuration === "0s")')


@needs_chromium
def test_frames_without_partner(browser, tmp_path):
    part = Alignment(ALIGNMENTS[0].path[(ALIGNMENTS[0].path[:, 0] >= 30) & (ALIGNMENTS[0].path[:, 0] < 70)], ALIGNMENTS[0].cost)
    show(browser, write_player(tmp_path/'part.html', CLIPS[:2], [part], progress=False))
    for moment, matched in ((0, False), (30, True), (69, True), (70, False), (119, False)):
        browser.run(f'{P}.seek({moment}).then(() => 1)')
        assert browser.run(f'{P}.frames') == [moment, int(FRAMES[moment, 1]) if matched else None]
        assert browser.run('getComputedStyle(document.querySelectorAll(".lrp-none")[1]).display') == ('none' if matched else 'block')
    assert browser.run('document.querySelector(".lrp-note").textContent') == 'frame 119 matches nothing'
    nothing = Alignment(np.array([[5, 5]]), ALIGNMENTS[0].cost)
    show(browser, write_player(tmp_path/'step.html', CLIPS[:2], [nothing], step=3, progress=False))  # frame 5 is none of those kept
    browser.run(f'{P}.seek(39).then(() => 1)')
    assert browser.run(f'{P}.frames') == [117, None]


@needs_chromium
def test_names_are_text(browser, tmp_path):
    videos = [clip(HOSTILE, 20), clip(HOSTILE + '2', 30)]
    show(browser, write_player(tmp_path/'names.html', videos, [pair(*videos)], phase_names=[HOSTILE]*4, progress=False))
    browser.run(f'{P}.seek(7).then(() => 1)')
    assert browser.run('[...document.querySelectorAll(".lrp-name b")].map(e => e.textContent)') == [v.name for v in videos]
    assert browser.run('document.title') == browser.run('document.querySelector("h1").textContent') == f'{HOSTILE} and {HOSTILE}2'
    assert browser.run('document.querySelector(".lrp-phase").textContent') == HOSTILE
    assert browser.run('[window.hacked === undefined, document.querySelectorAll("img").length]') == [True, 0]


@needs_chromium
def test_nothing_can_be_fetched(browser, page):
    show(browser, page)
    assert browser.run('fetch("http://127.0.0.1:9/").then(() => "fetched", () => "refused")') == 'refused'
    assert any('Content Security Policy' in e for e in browser.errors)
    browser.errors.clear()
    browser.requests.clear()


@needs_chromium
def test_in_a_frame(browser, page, tmp_path):
    (tmp_path/'outer.html').write_text(f'<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><body>{_frame(page.read_text(encoding="utf-8"), HOSTILE)}', encoding='utf-8')
    browser.open(tmp_path/'outer.html')
    def orange():
        shot = np.asarray(Image.open(browser.picture(tmp_path/'frame.png', whole=False)).convert('RGB'))
        return (shot == [0xd5, 0x5e, 0x00]).all(-1).sum()
    for _ in range(100):
        if orange() > 50: break
    assert orange() > 50                                             # the path is drawn
    assert browser.run('document.querySelector("iframe").contentDocument') is None


WIDGET = '''<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><style>%s</style><div id="el"></div><script type="module">
document.body.dataset.jpThemeLight = 'false';
const state = {data: %s, moment: 12, frames: %s.map(t => new DataView(Uint8Array.from(atob(t), c => c.charCodeAt(0)).buffer))}, calls = {}, saved = [];
const model = {get: k => state[k], set: (k, v) => { state[k] = v; }, save_changes: () => saved.push(state.moment), on: (name, f) => { calls[name] = f; }, off: name => { delete calls[name]; }};
const widget = (await import(URL.createObjectURL(new Blob([%s], {type: "text/javascript"})))).default, el = document.getElementById("el");
Object.assign(window, {model, calls, saved, close: await widget.render({model, el})});
el.firstChild.id = "player";
</script>'''


@needs_chromium
def test_widget(browser, tmp_path):
    pytest.importorskip('anywidget', reason='the extra [widget] is not installed')
    widget = player(CLIPS, ALIGNMENTS, progress=False)
    state = widget.get_state()
    def script(value): return json.dumps(value).replace('<', '\\u003c')
    parts = state['_css'], script(state['data']), script([base64.b64encode(b).decode() for b in state['frames']]), script(state['_esm'])
    (tmp_path/'widget.html').write_text(WIDGET % parts, encoding='utf-8')
    show(browser, tmp_path/'widget.html')
    at(browser, 12)                                                  # where the model says
    assert browser.run('el.firstChild.dataset.theme') == 'dark'      # as JupyterLab is here, whatever the system prefers
    browser.run('model.set("moment", 64), calls["change:moment"]()')
    at(browser, 64)
    x, y, w, h = box(browser, '.lrp-canvas')
    browser.click(x + w*(90 + .5)/120, y + h/2)
    at(browser, 90)
    assert browser.run('[saved.at(-1), model.get("moment")]') == [90, 90]
    browser.key('ArrowRight')                                        # the click gave it the focus
    at(browser, 91)
    browser.run('document.activeElement.blur()')
    browser.key('ArrowRight')                                        # keys of the page around it are not its own
    browser.run('new Promise(requestAnimationFrame)')
    at(browser, 91)
    browser.run('close()')
    assert browser.run('Object.keys(calls)') == []


def test_wheel_contains_the_program(tmp_path):
    pytest.importorskip('setuptools')
    for name in ('settings.ini', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE'): copy(ROOT/name, tmp_path)
    copytree(ROOT/'lrprop', tmp_path/'lrprop', ignore=ignore_patterns('__pycache__'))
    done = subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '--wheel-dir', str(tmp_path/'out'), '.'], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next((tmp_path/'out').glob('*.whl'))).namelist()
    assert {f'lrprop/web/player.{kind}' for kind in ('js', 'css', 'html')} <= set(names)


def test_pages_are_the_same_every_time(tmp_path, page):
    again = write_player(tmp_path/'again.html', CLIPS, ALIGNMENTS, phase_names=['rise', 'hold'], title='Three clips', progress=False)
    assert again.read_bytes() == page.read_bytes()
    record = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(encoding='utf-8'), re.S)[1])
    first = Image.open(io.BytesIO(base64.b64decode(record['matrices'][0]['png'])))
    assert first.size == (120, 90)
