'use strict';
(() => {
  const $ = id => document.getElementById('site-' + id), html = document.documentElement, root = document.currentScript.dataset.root;
  const dark = () => html.dataset.theme ? html.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  $('theme').onclick = () => {
    html.dataset.theme = dark() ? 'light' : 'dark';
    try { localStorage.setItem('lrprop-theme', html.dataset.theme); } catch {}
  };
  $('menu').onclick = () => $('menu').setAttribute('aria-expanded', document.body.classList.toggle('menu'));
  const toc = document.querySelector('.toc');
  if (toc && innerWidth < 1200) toc.open = false;
  document.querySelector('#site-pages [aria-current]')?.scrollIntoView({block: 'nearest'});

  // Inline mathematics wider than the text scrolls by itself.
  const fit = () => document.querySelectorAll('article math:not([display=block])').forEach(m => {
    const box = m.closest('p, li, td, dd') || m.parentElement;
    if (!m.closest('.scroll, .scrolls') && m.getBoundingClientRect().width > box.clientWidth) {
      const span = document.createElement('span');
      span.className = 'scrolls';
      m.replaceWith(span);
      span.append(m);
    }
  });
  fit();
  addEventListener('resize', fit);

  // Search: the index is a script, so that it loads from a file too. Names first, exact before partial; then titles; then text.
  const input = $('search'), hits = $('hits');
  let loading;
  const load = () => loading ??= new Promise((done, failed) => {
    const script = document.createElement('script');
    Object.assign(script, {src: root + 'search.js', onload: done, onerror: failed});
    document.head.append(script);
  });
  const rank = (e, words) => {
    const title = e.title.toLowerCase(), all = words.join(' '), weight = {name: 8, page: 6, section: 3}[e.kind];
    if (title === all || title.split('.').at(-1) === all) return 100 + weight;
    const text = e.text.toLowerCase(), page = e.page.toLowerCase();
    let score = 0;
    for (const w of words) {
      if (title.startsWith(w)) score += 20;
      else if (title.includes(w)) score += 12;
      else if (page.includes(w)) score += 4;
      else if (text.includes(w)) score += 1;
      else return 0;
    }
    return score/words.length + weight;
  };
  const around = (text, words) => {
    const at = Math.max(0, ...words.map(w => text.toLowerCase().indexOf(w)).filter(i => i > 60).slice(0, 1).map(i => i - 50));
    return (at ? '…' : '') + text.slice(at, at + 130) + (at + 130 < text.length ? '…' : '');
  };
  const select = i => {
    const links = [...hits.querySelectorAll('a')];
    links.forEach((a, k) => a.setAttribute('aria-selected', k === i));
    links[i]?.scrollIntoView({block: 'nearest'});
  };
  const show = async () => {
    const asked = input.value, words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    hits.hidden = !words.length;
    if (!words.length) return;
    await load();
    if (input.value !== asked) return;  // more was typed meanwhile
    const found = window.SEARCH.map(e => [rank(e, words), e]).filter(([s]) => s > 0).sort((a, b) => b[0] - a[0] || a[1].title.length - b[1].title.length).slice(0, 25);
    hits.replaceChildren(...found.map(([, e]) => {
      const a = document.createElement('a'), small = document.createElement('small');
      a.href = root + e.href;
      a.role = 'option';
      a.textContent = e.title;
      small.textContent = [e.page === e.title ? '' : e.page, around(e.text, words)].filter(Boolean).join(' · ');
      a.append(small);
      return a;
    }));
    if (!found.length) hits.append(Object.assign(document.createElement('p'), {textContent: 'Nothing found.'}));
    else select(0);
    hits.dataset.shown = asked;
  };
  input.oninput = show;
  input.onfocus = show;
  input.onkeydown = e => {
    const links = [...hits.querySelectorAll('a')], i = links.findIndex(a => a.getAttribute('aria-selected') === 'true');
    if (e.key === 'ArrowDown' || e.key === 'ArrowUp') { e.preventDefault(); select((i + (e.key === 'ArrowDown' ? 1 : links.length - 1)) % links.length); }
    else if (e.key === 'Enter' && links[i]) links[i].click();
    else if (e.key === 'Escape') { input.value = ''; hits.hidden = true; input.blur(); }
  };
  document.addEventListener('click', e => {
    if (!$('find').contains(e.target)) hits.hidden = true;
    if (hits.contains(e.target)) { hits.hidden = true; document.body.classList.remove('menu'); }
  });
  document.addEventListener('keydown', e => { if (e.key === '/' && !/input|textarea|select/i.test(document.activeElement.tagName)) { e.preventDefault(); input.focus(); } });
})();
