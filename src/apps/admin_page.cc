// The live page at http://127.0.0.1:7071/. One file, no dependencies, works without the internet.
#include "apps/admin.h"

namespace shoal {

std::string_view admin_page() {
  return R"html(<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Shoal</title>
<style>
  :root { color-scheme: light dark; --line: #8884; --soft: #888; --good: #2a9d6f; --bad: #d1495b; }
  body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
  h1 { font-size: 1.3rem; margin: 0; }
  header p { color: var(--soft); margin: .2rem 0 1.5rem; }
  main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
  section { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; }
  h2 { font-size: .8rem; font-weight: 600; color: var(--soft); margin: 0; }
  .big { font-size: 1.5rem; font-variant-numeric: tabular-nums; }
  .small { color: var(--soft); font-size: .85rem; font-variant-numeric: tabular-nums; }
  .bar { background: var(--line); border-radius: 3px; height: 6px; margin: .4rem 0; overflow: hidden; }
  .bar i { background: var(--good); display: block; height: 100%; width: 0; }
  table { border-collapse: collapse; margin-top: 1.5rem; width: 100%; }
  th, td { border-bottom: 1px solid var(--line); padding: .3rem .5rem; text-align: left; }
  th { color: var(--soft); font-size: .8rem; }
  td { overflow-wrap: anywhere; }
  .bad { color: var(--bad); }
</style>
<header><h1 id="title">Shoal</h1><p id="facts">waiting for the node</p></header>
<main>
  <section><h2>Read from the origin</h2><div class="big" id="down">-</div>
    <div class="small" id="downTotal"></div></section>
  <section><h2>Written to the origin</h2><div class="big" id="up">-</div>
    <div class="small" id="upTotal"></div></section>
  <section><h2>Reads from the cache</h2><div class="big" id="hits">-</div>
    <div class="small" id="hitsOf"></div></section>
  <section><h2>To upload</h2><div class="big" id="dirty">-</div>
    <div class="small" id="dirtyOldest"></div></section>
  <section><h2>Cached files</h2><div class="big" id="files">-</div>
    <div class="bar"><i id="filesBar"></i></div><div class="small" id="filesOf"></div></section>
  <section><h2>Small objects</h2><div class="big" id="blocks">-</div>
    <div class="bar"><i id="blocksBar"></i></div><div class="small" id="blocksOf"></div></section>
</main>
<div id="warnings"></div>
<table id="backlog" hidden><thead><tr><th>Object<th>Size<th>Uploaded<th>State<th>Last error</thead>
<tbody></tbody></table>
<p class="small"><a href="metrics">metrics</a> · <a href="status.json">status.json</a></p>
<script>
const el = id => document.getElementById(id);
const size = n => {
  const u = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let i = 0;
  while (n >= 1024 && i < u.length - 1) { n /= 1024; ++i; }
  return (i === 0 ? Math.round(n) : n.toPrecision(3)) + ' ' + u[i];
};
const age = s => s < 60 ? Math.round(s) + ' s' : s < 3600 ? Math.round(s / 60) + ' min'
  : (s / 3600).toFixed(1) + ' h';
let before = null;
function show(s) {
  const at = performance.now() / 1000;
  const rate = read => before ? size(Math.max(0, (read(s) - read(before.s)) / (at - before.at))) + '/s' : '-';
  el('title').textContent = 'Shoal: ' + s.shoal.origin;
  el('facts').textContent = [s.shoal.mountpoint, s.self, 'version ' + s.shoal.version,
    'up ' + age(s.shoal.uptime_seconds), s.shoal.mode, size(s.memory.rss_bytes) + ' of memory']
    .filter(x => x).join(' · ');
  el('down').textContent = rate(x => x.origin.bytes_read);
  el('downTotal').textContent = size(s.origin.bytes_read) + ' in ' + s.origin.reads + ' reads';
  el('up').textContent = rate(x => x.origin.bytes_written);
  el('upTotal').textContent = size(s.origin.bytes_written) + ' in ' + s.origin.writes + ' writes'
    + (s.origin.retries ? ', ' + s.origin.retries + ' retries' : '');
  const hits = s.read.hits_local + s.read.hits_peer, all = hits + s.read.misses;
  el('hits').textContent = all ? (100 * hits / all).toFixed(1) + '%' : '-';
  el('hitsOf').textContent = (all ? 'of ' + all + ' reads' : 'no reads') + ' through the daemon';
  el('dirty').textContent = s.dirty.objects ? size(s.dirty.bytes) : 'nothing';
  el('dirtyOldest').textContent = s.dirty.objects ? s.dirty.objects + ' objects, the oldest for '
    + age(s.dirty.oldest_seconds) : '';
  for (const tier of ['files', 'blocks']) {
    el(tier).textContent = size(s[tier].bytes);
    el(tier + 'Bar').style.width = (s[tier].capacity ? 100 * s[tier].bytes / s[tier].capacity : 0) + '%';
    el(tier + 'Of').textContent = s[tier].capacity ? 'of ' + size(s[tier].capacity) : '';
  }
  const body = el('backlog').tBodies[0];
  body.replaceChildren(...s.backlog.slice(0, 50).map(item => {
    const row = document.createElement('tr');
    for (const text of [item.object, size(item.bytes), size(item.uploaded), item.state, item.last_error]) {
      row.insertCell().textContent = text;
    }
    row.cells[4].className = 'bad';
    return row;
  }));
  el('backlog').hidden = !s.backlog.length;
  el('warnings').replaceChildren(...s.warnings.map(text => {
    const p = document.createElement('p');
    p.className = 'bad';
    p.textContent = text;
    return p;
  }));
  before = { s, at };
}
async function tick() {
  try {
    const answer = await fetch('status.json', { cache: 'no-store' });
    if (!answer.ok) throw new Error(answer.status);
    show(await answer.json());
  } catch (e) {
    el('facts').textContent = 'the node does not answer';
    before = null;
  }
  setTimeout(tick, document.hidden ? 10000 : 1000);
}
tick();
</script>
</html>
)html";
}

}  // namespace shoal
