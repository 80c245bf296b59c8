// Videos side by side, moved together along their alignment. The page that write_player makes and the Jupyter widget both run this file.
//
// data   what lrprop.player._content makes: names, lengths, phases, which picture belongs to which moment, the matrices
// blobs  one Uint8Array a video: its JPEG pictures one after the other
// A moment is one shown frame of the reference, videos[0].

const KEPT = 64, AHEAD = 6;  // decoded pictures kept of each video, and prepared while playing
const ICONS = {play: 'M7 4.5v15l12-7.5z', pause: 'M6 5h4v14H6zM14 5h4v14h-4z', back: 'M15.5 5.5 9 12l6.5 6.5z', next: 'M8.5 5.5 15 12l-6.5 6.5z',
  repeat: 'M7 7h9V4l5 4.5-5 4.5v-3H9v3H7zM17 17H8v3l-5-4.5L8 11v3h7v-3h2z', theme: 'M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20zm0 2v16a8 8 0 0 1 0-16z'};
const KEYS = [['Space', 'play or pause'], ['← →', 'one frame'], ['Shift ← →', 'one second'], ['↑ ↓', 'next, previous phase of the reference'],
  ['Home End', 'first, last frame'], ['R', 'repeat'], ['T', 'light or dark']];

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);  // strings become text, never markup
  return element;
}

function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg'), path = document.createElementNS(svg.namespaceURI, 'path');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
}

function button(name, label, action) {
  const element = make('button', {type: 'button', class: `lrp-${name}`, 'aria-label': label, title: label}, icon(name));
  element.addEventListener('click', event => {
    action();
    if (event.detail) element.blur();  // clicked, not pressed by a key: the space bar goes on to play and pause
  });
  return element;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const seconds = (frame, fps) => (frame / fps).toFixed(2) + ' s';

// The JPEG pictures of one video, decoded when asked for.
class Pictures {
  constructor(bytes, offsets) { Object.assign(this, {bytes, offsets, kept: new Map()}); }
  get(i) {
    const picture = this.kept.get(i) ?? createImageBitmap(new Blob([this.bytes.subarray(this.offsets[i], this.offsets[i + 1])], {type: 'image/jpeg'}));
    this.kept.delete(i);
    this.kept.set(i, picture);  // the latest is the last to go
    if (this.kept.size > KEPT) this.drop(this.kept.keys().next().value);
    return picture;
  }
  drop(i) {
    this.kept.get(i).then(picture => picture.close(), () => {});
    this.kept.delete(i);
  }
  close() { for (const i of [...this.kept.keys()]) this.drop(i); }
}

const starts = runs => runs.map((_, r) => runs.slice(0, r).reduce((sum, [, n]) => sum + n, 0));  // of runs [phase, length]

function gradient(runs, colors, n, direction) {
  if (!runs) return 'none';
  const at = starts(runs), stops = runs.map(([phase, length], r) => `${colors[phase % colors.length]} ${100*at[r]/n}% ${100*(at[r] + length)/n}%`);
  return `linear-gradient(${direction}, ${stops.join(', ')})`;
}

function phaseAt(runs, frame) {
  for (const [phase, length] of runs) if ((frame -= length) < 0) return phase;
}

// Calls `to` with the place in [0, 1] of every press and drag on an element.
function draggable(element, to) {
  const move = event => {
    const box = element.getBoundingClientRect();
    to(clamp((event.clientX - box.left) / box.width, 0, 1));
  };
  element.addEventListener('pointerdown', event => {
    if (event.button) return;
    try { element.setPointerCapture(event.pointerId); } catch { /* a pointer that is already gone */ }
    move(event);
  });
  element.addEventListener('pointermove', event => { if (event.buttons) move(event); });
}

// One video: picture, its own time bar, name, time, phase.
function videoPanel(video, index, data, blob, jump) {
  const canvas = make('canvas', {width: video.width, height: video.height, role: 'img', 'aria-label': video.name});
  const none = make('span', {class: 'lrp-none'}, 'no match'), marker = make('i'), time = make('span', {class: 'lrp-time'});
  const phase = make('span', {class: 'lrp-phase'}), strip = make('div', {class: 'lrp-strip'}, marker), pen = canvas.getContext('2d');
  const name = make('b', {title: video.name}, video.name);
  strip.style.backgroundImage = gradient(video.phases, data.colors, video.n, 'to right');
  draggable(strip, at => {  // the moment that shows the frame nearest to the one pointed at
    let best = 0, least = Infinity;
    video.shown.forEach((picture, moment) => {
      const off = picture < 0 ? Infinity : Math.abs(video.frames[picture] - at * (video.n - 1));
      if (off < least) [best, least] = [moment, off];
    });
    jump(best);
  });
  const element = make('figure', {class: 'lrp-video'}, make('div', {class: 'lrp-screen'}, canvas, none), strip,
    make('figcaption', {}, make('div', {class: 'lrp-name'}, name, ...(index ? [] : [make('em', {}, 'reference')])), make('div', {class: 'lrp-own'}, time, phase)));
  element.style.setProperty('--ratio', `${video.width}/${video.height}`);
  const pictures = new Pictures(blob, video.offsets);
  return {
    element, pictures, canvas,
    want(moment) { const i = video.shown[moment]; return i < 0 ? null : pictures.get(i); },
    frame(moment) { const i = video.shown[moment]; return i < 0 ? null : video.frames[i]; },
    paint(moment, picture) {
      const frame = this.frame(moment);
      element.classList.toggle('lrp-unmatched', frame === null);
      pen.clearRect(0, 0, video.width, video.height);
      if (picture) pen.drawImage(picture, 0, 0, video.width, video.height);
      if (frame === null) return time.textContent = '–', phase.replaceChildren();
      marker.style.left = `${100*(frame + .5)/video.n}%`;
      time.textContent = `${seconds(frame, video.fps)} · ${frame} / ${video.n - 1}`;
      if (!video.phases) return;
      const p = phaseAt(video.phases, frame), dot = make('i');
      dot.style.background = data.colors[p % data.colors.length];
      phase.replaceChildren(dot, data.phaseNames[p] ?? `phase ${p}`);
    },
  };
}

// The similarity of the reference and one other video, with the path and where it stands now.
function matrixPanel(data, jump) {
  const canvas = make('canvas', {role: 'img', class: 'lrp-canvas'}), base = document.createElement('canvas'), select = make('select', {'aria-label': 'video compared with the reference'});
  const below = make('div', {class: 'lrp-strip lrp-below'}), beside = make('div', {class: 'lrp-strip lrp-beside'}), note = make('p', {class: 'lrp-note'});
  const [reference, ...others] = data.videos, across = make('span', {class: 'lrp-across'}, reference.name + ' →'), up = make('span', {class: 'lrp-up'});
  others.forEach((video, j) => select.append(make('option', {value: j}, video.name)));
  const head = make('header', {}, make('h2', {}, 'Similarity'), ...(others.length > 1 ? [select] : []));
  const element = make('section', {class: 'lrp-matrix', 'aria-label': 'similarity of frames'}, head, make('div', {class: 'lrp-plot'}, up, beside, canvas, below, across), note);
  let chosen = 0, moment = 0, image = null, asked = 0;
  const place = (k, i) => [(k + .5) / reference.n * base.width, (1 - (i + .5) / others[chosen].n) * base.height];

  function line(pen, points, color, width) {
    pen.beginPath();
    for (const [k, i] of points) pen.lineTo(...place(k, i));
    Object.assign(pen, {strokeStyle: color, lineWidth: width * devicePixelRatio, lineJoin: 'round', lineCap: 'round'});
    pen.stroke();
  }
  function ground() {  // all but the cursor
    const side = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
    base.width = base.height = canvas.width = canvas.height = side;
    const pen = base.getContext('2d');
    pen.imageSmoothingEnabled = false;
    if (image) pen.drawImage(image, 0, 0, side, side);
    line(pen, data.matrices[chosen].path, '#000', 4);
    line(pen, data.matrices[chosen].path, data.pathColor, 2.5);
    cursor();
  }
  function cursor() {
    const pen = canvas.getContext('2d'), video = others[chosen], k = reference.frames[reference.shown[moment]], picture = video.shown[moment];
    const frame = picture < 0 ? null : video.frames[picture], [x, y] = place(k, frame ?? 0), {width, height} = canvas;
    pen.clearRect(0, 0, width, height);
    pen.drawImage(base, 0, 0);
    for (const [color, thick] of [['#000a', 3], ['#fff', 1.25]]) {
      Object.assign(pen, {strokeStyle: color, lineWidth: thick * devicePixelRatio});
      pen.beginPath();
      pen.moveTo(x, 0); pen.lineTo(x, height);
      if (frame !== null) { pen.moveTo(0, y); pen.lineTo(width, y); }
      pen.stroke();
    }
    if (frame !== null) {
      Object.assign(pen, {fillStyle: data.cursorColor, strokeStyle: '#fff', lineWidth: 2 * devicePixelRatio});
      pen.beginPath();
      pen.arc(x, y, 6 * devicePixelRatio, 0, 7);
      pen.fill();
      pen.stroke();
    }
    const distance = data.matrices[chosen].distance[moment];
    note.textContent = frame === null ? `frame ${k} matches nothing` : `frame ${k} ↔ ${frame} · distance ${distance.toFixed(3)}`;
  }
  async function choose(j) {
    chosen = j;
    select.value = j;
    const video = others[j], mine = ++asked;
    up.textContent = video.name + ' →';
    canvas.setAttribute('aria-label', `similarity of ${reference.name} (to the right) and ${video.name} (upwards), light where frames look alike, with the path of the alignment`);
    below.style.backgroundImage = gradient(reference.phases, data.colors, reference.n, 'to right');
    beside.style.backgroundImage = gradient(video.phases, data.colors, video.n, 'to top');
    const png = Uint8Array.from(atob(data.matrices[j].png), c => c.charCodeAt(0));
    const picture = await createImageBitmap(new Blob([png], {type: 'image/png'}));
    if (mine === asked) { image = picture; ground(); }
  }
  select.addEventListener('change', () => choose(+select.value));
  draggable(canvas, at => jump(Math.round((at * reference.n - .5) / data.step)));
  return {element, canvas, choose, ground, get chosen() { return chosen; }, paint(m) { moment = m; cursor(); }};
}

export function mount(root, data, blobs, {keys = root} = {}) {
  const [reference] = data.videos, n = reference.shown.length, rate = reference.fps / data.step;
  const stop = new AbortController(), system = matchMedia('(prefers-color-scheme: dark)'), listening = {signal: stop.signal};
  let wanted = 0, shown = -1, settling = null, playing = false, repeat = false, speed = 1, from = 0, since = 0, tick = 0;

  const panels = data.videos.map((video, j) => videoPanel(video, j, data, blobs[j], moment => jump(moment)));
  const matrix = matrixPanel(data, moment => jump(moment));
  const scrub = make('input', {type: 'range', min: 0, max: n - 1, step: 1, value: 0, 'aria-label': 'time of the reference'});
  const clock = make('output', {class: 'lrp-clock'}), status = make('div', {class: 'lrp-status', role: 'status', 'aria-live': 'polite'});
  const speeds = make('select', {'aria-label': 'speed', title: 'speed'}, ...[.1, .25, .5, 1, 2].map(s => make('option', {value: s, ...(s === 1 && {selected: ''})}, `${s}×`)));
  const playButton = button('play', 'play', () => toggle()), repeatButton = button('repeat', 'repeat', () => setRepeat(!repeat));
  const themeButton = button('theme', 'light or dark', () => setTheme(root.dataset.theme === 'dark' ? 'light' : 'dark'));
  const track = make('div', {class: 'lrp-track'}, scrub), videos = make('div', {class: 'lrp-videos'}, ...panels.map(p => p.element));
  track.style.setProperty('--phases', gradient(reference.phases, data.colors, reference.n, 'to right'));
  const controls = make('div', {class: 'lrp-controls', role: 'group', 'aria-label': 'playback'}, button('back', 'one frame back', () => jump(wanted - 1)), playButton,
    button('next', 'one frame on', () => jump(wanted + 1)), track, clock, speeds, repeatButton);
  const help = make('details', {}, make('summary', {}, 'Keys'), make('dl', {}, ...KEYS.flatMap(([key, what]) => [make('dt', {}, ...key.split(' ').map(k => make('kbd', {}, k))), make('dd', {}, what)])));
  videos.style.setProperty('--columns', {2: 2, 3: 3, 4: 2}[panels.length] ?? 3);
  root.classList.add('lrp');
  root.dataset.lmSuppressShortcuts = 'true';  // JupyterLab's own keys rest while the player has the focus
  root.tabIndex = -1;
  root.replaceChildren(make('header', {class: 'lrp-head'}, make('h1', {}, data.title), themeButton),
    make('div', {class: 'lrp-body'}, make('div', {class: 'lrp-main'}, videos, controls, status), make('aside', {}, matrix.element, help)));

  // Moving: one change of pictures at a time, all videos together; what was asked for last comes next.
  function seek(moment) {
    wanted = clamp(Math.round(moment), 0, n - 1) || 0;
    scrub.value = wanted;
    settling ??= settle().finally(() => settling = null);
    return settling;
  }
  async function settle() {
    while (shown !== wanted) {
      const moment = wanted;
      const pictures = await Promise.all(panels.map(p => p.want(moment))).catch(error => say(`frame cannot be shown: ${error.message}`) ?? panels.map(() => null));
      if (stop.signal.aborted) return;
      panels.forEach((p, j) => p.paint(moment, pictures[j]));
      shown = moment;
      matrix.paint(moment);
      const now = `${seconds(panels[0].frame(moment), reference.fps)}`;
      clock.textContent = `${now} / ${seconds(reference.n - 1, reference.fps)}`.replaceAll(' s', '\u00a0s');  // breaks at the stroke only
      scrub.setAttribute('aria-valuetext', `${now}, frame ${panels[0].frame(moment)} of ${reference.n - 1}`);
      root.dispatchEvent(new CustomEvent('moment', {detail: moment}));
    }
    if (!playing) say(panels.map((p, j) => `${data.videos[j].name}: ${p.frame(shown) === null ? 'no match' : seconds(p.frame(shown), data.videos[j].fps)}`).join(', '));
  }
  function say(text) { status.textContent = text; }
  function jump(moment) {
    [from, since] = [clamp(moment, 0, n - 1), performance.now()];
    return seek(moment);
  }
  function run(now) {
    if (!playing) return;
    let at = from + Math.max(0, now - since) / 1000 * rate * speed;
    if (at >= n && repeat) { [from, since] = [0, now]; at = 0; }
    if (at >= n) { seek(n - 1); pause(); return; }
    seek(Math.floor(at));
    for (let m = wanted + 1; m <= Math.min(wanted + AHEAD, n - 1); m++) panels.forEach(p => p.want(m)?.catch(() => {}));
    tick = requestAnimationFrame(run);
  }
  function play() {
    if (playing) return;
    setPlaying(true);
    jump(wanted >= n - 1 ? 0 : wanted);
    tick = requestAnimationFrame(run);
  }
  function pause() {
    cancelAnimationFrame(tick);
    setPlaying(false);
  }
  function toggle() { playing ? pause() : play(); }
  function setPlaying(on) {
    playing = on;
    const label = on ? 'pause' : 'play';
    playButton.replaceChildren(icon(label));
    playButton.setAttribute('aria-label', label);
    playButton.title = label;
  }
  function setRepeat(on) {
    repeat = on;
    repeatButton.setAttribute('aria-pressed', on);
  }
  function setTheme(theme) { root.dataset.theme = theme; }
  function follow() {  // JupyterLab's theme, or the system's
    const {jpThemeLight} = document.body.dataset;
    setTheme((jpThemeLight ? jpThemeLight === 'false' : system.matches) ? 'dark' : 'light');
  }
  function phaseStep(way) {
    if (!reference.phases) return jump(wanted + way);
    const edges = starts(reference.phases).map(k => Math.ceil(k / data.step)), at = wanted;
    const to = way > 0 ? edges.find(m => m > at) : edges.findLast(m => m < at);
    if (to !== undefined) jump(to);
  }

  const second = Math.max(1, Math.round(rate));
  const actions = {' ': toggle, ArrowLeft: e => jump(wanted - (e.shiftKey ? second : 1)), ArrowRight: e => jump(wanted + (e.shiftKey ? second : 1)),
    PageUp: () => jump(wanted + second), PageDown: () => jump(wanted - second), ArrowUp: () => phaseStep(1), ArrowDown: () => phaseStep(-1),
    Home: () => jump(0), End: () => jump(n - 1), r: () => setRepeat(!repeat), t: () => themeButton.click()};
  keys.addEventListener('keydown', event => {
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key], at = event.target;
    if (!action || event.ctrlKey || event.metaKey || event.altKey || at.closest?.('select')) return;
    if (event.key === ' ' && at.closest?.('button, summary')) return;  // presses what has the focus
    event.preventDefault();
    event.stopPropagation();
    action(event);
  }, listening);
  scrub.addEventListener('input', () => jump(+scrub.value), listening);
  speeds.addEventListener('change', () => { [from, since, speed] = [wanted, performance.now(), +speeds.value]; speeds.blur(); }, listening);
  root.addEventListener('pointerdown', event => { if (keys === root && !event.target.closest('select, input, button, summary')) root.focus({preventScroll: true}); }, listening);
  system.addEventListener('change', follow, listening);
  const resized = new ResizeObserver(() => matrix.ground());
  resized.observe(matrix.canvas);

  follow();
  setRepeat(false);
  const ready = Promise.all([matrix.choose(0), seek(0)]);
  return root.player = {
    seek: jump, play, pause, ready, choose: matrix.choose,
    get moment() { return shown; }, get playing() { return playing; },
    get frames() { return panels.map(p => p.frame(shown)); },  // of each video, null where nothing matches
    close() {
      pause();
      stop.abort();
      resized.disconnect();
      panels.forEach(p => p.pictures.close());
    },
  };
}

// The contract of anywidget: a model with the traits data, frames and moment.
export default {
  render({model, el}) {
    const bytes = model.get('frames').map(v => new Uint8Array(v.buffer, v.byteOffset, v.byteLength)), root = make('div');
    el.append(root);
    const player = mount(root, model.get('data'), bytes), follow = () => { if (model.get('moment') !== player.moment) player.seek(model.get('moment')); };
    player.seek(model.get('moment'));
    root.addEventListener('moment', event => {
      if (model.get('moment') === event.detail) return;
      model.set('moment', event.detail);
      model.save_changes();
    });
    model.on('change:moment', follow);
    return () => { model.off('change:moment', follow); player.close(); };
  },
};
