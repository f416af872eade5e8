'use strict';
// Shows recorded numbers. No update and no loss is computed here: all of them come with the page.

const data = JSON.parse(document.getElementById('data').textContent);
const $ = (id) => document.getElementById(id);
const names = Object.keys(data.rates);
const state = {
  tab: 'surfaces', surface: Object.keys(data.surfaces)[0], start: 0, step: 0, playing: false,
  shown: new Set(names), rate: {}, inner: '', trained: new Set(Object.keys(data.training.runs)),
};
const TITLES = {ravine: 'a ravine', rosenbrock: 'Rosenbrock’s valley', beale: 'Beale’s plains and walls',
  saddle: 'a saddle', multimodal: 'many minima (six-hump camel)'};

// ---- unpacking: see pack_bytes, pack_points and pack_numbers in learned_opt/figures/explorer.py ----

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// uint16 rows of `length`: low bytes, then high bytes, of differences along a row.
function unpack16(bytes, offset, count, length) {
  const found = new Uint16Array(count);
  for (let n = 0; n < count; n++) {
    const difference = bytes[offset + n] | (bytes[offset + count + n] << 8);
    found[n] = n % length ? found[n - 1] + difference : difference;
  }
  return found;
}

function asFloats(codes) {  // bfloat16: the upper half of a float32
  return new Float32Array(Uint32Array.from(codes, (code) => code << 16).buffer);
}

const surfaces = {};
async function unpackSurface(name) {
  if (surfaces[name]) return surfaces[name];
  const raw = data.surfaces[name], T = data.steps + 1, ways = {};
  for (const rule of names) {
    const bytes = await inflate(raw.ways[rule].data);
    const runs = data.rates[rule].length * raw.starts.length;
    let offset = 0;
    const take = (count) => { const part = unpack16(bytes, offset, count, T); offset += 2 * count; return part; };
    const points = take(2 * runs * T), losses = asFloats(take(runs * T)), memory = {};
    for (const kind of raw.ways[rule].memory) memory[kind] = asFloats(take(2 * runs * T));
    ways[rule] = {points, losses, memory};
  }
  surfaces[name] = {ways, map: await inflate(raw.map)};
  return surfaces[name];
}

// The way of a rule from the chosen start at the chosen rate: x, y (null off the map's surroundings),
// loss and memory at every update.
function wayOf(rule) {
  const raw = data.surfaces[state.surface], T = data.steps + 1;
  const run = state.rate[rule] * raw.starts.length + state.start;
  const {points, losses, memory} = surfaces[state.surface].ways[rule];
  const at = (axis) => Array.from(points.subarray((2 * run + axis) * T, (2 * run + axis + 1) * T), (code) => {
    if (code === 65535) return null;
    return raw.box[0][axis] + code / 65534 * (raw.box[1][axis] - raw.box[0][axis]);
  });
  const kept = {};
  for (const kind in memory) {
    kept[kind] = [0, 1].map((axis) => Array.from(memory[kind].subarray((2 * run + axis) * T, (2 * run + axis + 1) * T)));
  }
  return {x: at(0), y: at(1), loss: Array.from(losses.subarray(run * T, (run + 1) * T)), memory: kept};
}

// ---- drawing ----

function svg(parent, tag, attributes, text) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}
const dark = window.matchMedia('(prefers-color-scheme: dark)');
function colorOf(rule) {  // black is the only colour that a dark page swallows
  const color = data.styles[rule].color;
  return color === '#000000' ? 'var(--ink)' : color;
}
function strokeOf(rule) {
  return {stroke: colorOf(rule), ...(dashOf(rule, 2) ? {'stroke-dasharray': dashOf(rule, 2)} : {})};
}
function dashOf(rule, width) {  // '' where the line is solid
  return data.styles[rule].dash.map((length) => length * width).join(' ');
}

function drawMap() {
  const canvas = $('bands'), side = data.map_side, map = surfaces[state.surface].map;
  canvas.width = canvas.height = side;
  const style = getComputedStyle(document.documentElement);
  const [low, high, contour] = ['--low', '--high', '--contour'].map((name) => Number(style.getPropertyValue(name)));
  const context = canvas.getContext('2d'), image = context.createImageData(side, side);
  map.forEach((band, n) => {
    const edge = n % side && n >= side && (band !== map[n - 1] || band !== map[n - side]);  // a contour
    image.data.fill(low + (high - low) * band / (data.bands - 1) + (edge ? contour : 0), 4 * n, 4 * n + 3);
    image.data[4 * n + 3] = 255;
  });
  context.putImageData(image, 0, 0);
  const [[x0, x1], [y0, y1]] = data.surfaces[state.surface].window;
  $('extent').textContent = `x from ${x0} to ${x1}, y from ${y0} to ${y1}`;
}

function place(x, y) {  // on the map, 0 to 1000
  const [[x0, x1], [y0, y1]] = data.surfaces[state.surface].window;
  return [1000 * (x - x0) / (x1 - x0), 1000 * (y1 - y) / (y1 - y0)];
}

function drawWays() {
  const root = $('ways'), raw = data.surfaces[state.surface];
  root.replaceChildren();
  raw.starts.forEach(([x, y], n) => {
    const [u, v] = place(x, y), chosen = n === state.start;
    const dot = svg(root, 'circle', {cx: u, cy: v, r: chosen ? 20 : 11, class: chosen ? 'start chosen' : 'start'});
    dot.dataset.start = n;
  });
  const shown = names.filter((rule) => state.shown.has(rule));
  for (const rule of shown) {
    const way = wayOf(rule), points = [];
    for (let t = 0; t <= state.step && way.x[t] !== null && way.y[t] !== null; t++) points.push(place(way.x[t], way.y[t]));
    const text = points.map(([u, v]) => `${u.toFixed(2)},${v.toFixed(2)}`).join(' ');
    svg(root, 'polyline', {points: text, class: 'casing'});
    const line = svg(root, 'polyline', {points: text, class: 'way', ...strokeOf(rule)});
    line.dataset.rule = rule;
    const [u, v] = points[points.length - 1];
    if (points.length === state.step + 1) svg(root, 'circle', {cx: u, cy: v, r: 13, class: 'dot', style: `fill:${colorOf(rule)}`});
  }
  for (const [x, y] of raw.minima) {
    const [u, v] = place(x, y);
    svg(root, 'text', {x: u, y: v + 15, 'text-anchor': 'middle', class: 'minimum'}, '★');
  }
}

function nearestStart(event) {
  const box = $('ways').getBoundingClientRect();
  const at = [1000 * (event.clientX - box.left) / box.width, 1000 * (event.clientY - box.top) / box.height];
  const distances = data.surfaces[state.surface].starts.map(([x, y]) => {
    const [u, v] = place(x, y);
    return Math.hypot(u - at[0], v - at[1]);
  });
  return distances.indexOf(Math.min(...distances));
}

const number = (value) => {
  if (!Number.isFinite(value)) return '∞';
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 10000) ? value.toExponential(0).replace('e+', 'e') : String(Number(value.toPrecision(2)));
};

// Round numbers between two ends; of a logarithmic scale the ends are decimal logarithms.
function ticksOf(low, high, log) {
  const ticks = [];
  if (log && high - low >= 1.5) {
    const stride = Math.ceil((high - low) / 5);
    for (let p = Math.ceil(low); p <= high; p += stride) ticks.push(10 ** p);
    return ticks;
  }
  const [from, to] = log ? [10 ** low, 10 ** high] : [low, high];
  const rough = (to - from) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const stride = power * [1, 2, 5, 10].find((n) => n * power >= rough);
  for (let n = Math.ceil(from / stride); n * stride <= to; n++) ticks.push(n * stride);
  return ticks;
}

// A plot of lines {name, label, color, dash, values} against updates.
function drawPlot(root, lines, {log, steps, ends}) {
  root.replaceChildren();
  const H = Number(root.getAttribute('viewBox').split(' ')[3]), W = Math.round(root.getBoundingClientRect().width) || 460;
  root.setAttribute('viewBox', `0 0 ${W} ${H}`);  // one unit is one pixel: text is as large as elsewhere
  const left = 48, right = W - 150, top = 8, bottom = H - 30;
  const finite = lines.flatMap((line) => line.values).filter((v) => Number.isFinite(v) && (!log || v > 0));
  if (!finite.length) { svg(root, 'text', {x: left, y: H / 2, class: 'faint'}, 'nothing to show'); return; }
  const limit = ends || [Math.min(...finite), Math.max(...finite)];
  let [low, high] = log ? limit.map(Math.log10) : limit;
  if (high - low < 1e-9) { low -= 1; high += 1; }
  const X = (t) => left + (right - left) * t / steps;
  const Y = (v) => bottom - (bottom - top) * ((log ? Math.log10(v) : v) - low) / (high - low);
  const axis = svg(root, 'g', {class: 'axis'});
  svg(axis, 'path', {d: `M${left} ${top}V${bottom}H${right}`});
  for (const v of ticksOf(low, high, log)) {
    svg(axis, 'path', {d: `M${left} ${Y(v)}H${right}`});
    svg(axis, 'text', {x: left - 5, y: Y(v) + 4, 'text-anchor': 'end'}, number(v));
  }
  for (let n = 0; n <= 4; n++) {
    const t = Math.round(steps * n / 4);
    svg(axis, 'text', {x: X(t), y: bottom + 14, 'text-anchor': 'middle'}, t);
  }
  svg(axis, 'text', {x: right, y: bottom + 28, 'text-anchor': 'end'}, 'updates');
  const labels = [];
  root.append(svg(root, 'clipPath', {id: `${root.id}-clip`}));
  svg(root.lastChild, 'rect', {x: left, y: top - 2, width: right - left + 2, height: bottom - top + 4});
  for (const line of lines) {
    let path = '', pen = false, last = null;
    line.values.forEach((v, t) => {
      const there = Number.isFinite(v) && (!log || v > 0);
      if (there) { const y = Math.max(-1e4, Math.min(1e4, Y(v))); path += `${pen ? 'L' : 'M'}${X(t).toFixed(1)} ${y.toFixed(1)}`; last = y; }
      pen = there;
    });
    const curve = svg(root, 'path', {d: path, class: 'curve', stroke: line.color, 'clip-path': `url(#${root.id}-clip)`,
      ...(line.dash ? {'stroke-dasharray': line.dash} : {})});
    curve.dataset.line = line.name;
    if (last !== null) labels.push({y: Math.max(top + 6, Math.min(bottom, last)), line});
  }
  labels.sort((a, b) => a.y - b.y);  // direct labels, moved apart where they would meet
  labels.forEach((label, n) => { if (n) label.y = Math.max(label.y, labels[n - 1].y + 13); });
  labels.reverse().forEach((label, n) => { label.y = Math.min(label.y, bottom - 13 * n); });
  for (const {y, line} of labels) {
    svg(root, 'path', {d: `M${right + 4} ${y}H${right + 20}`, class: 'sample', stroke: line.color,
      ...(line.dash ? {'stroke-dasharray': line.dash} : {})});
    svg(root, 'text', {x: right + 24, y: y + 4}, line.label);
  }
  svg(root, 'path', {d: `M${X(state.step)} ${top}V${bottom}`, class: 'cursor'});
}

function drawLosses() {
  const shown = names.filter((rule) => state.shown.has(rule));
  const lowest = Math.min(0, ...shown.flatMap((rule) => wayOf(rule).loss.filter(Number.isFinite)));
  const lines = shown.map((rule) => ({
    name: rule, color: colorOf(rule), dash: dashOf(rule, 1.4), values: wayOf(rule).loss,
    label: `${data.styles[rule].label} ${number(wayOf(rule).loss[state.step])}`,
  }));
  const first = lines.length ? lines[0].values[0] : 1;
  if (lowest < 0) {  // no logarithm of what is below zero: a plain scale, to a little above the start
    const floor = Math.max(lowest, first - 8 * (Math.abs(first) + 1));
    drawPlot($('loss'), lines, {log: false, steps: data.steps, ends: [floor, first + 0.15 * (first - floor) + 1e-3]});
  } else {
    const positive = lines.flatMap((line) => line.values).filter((v) => v > 0 && Number.isFinite(v));
    const ends = positive.length ? [Math.max(1e-8, Math.min(...positive)), Math.min(3 * first, Math.max(...positive))] : null;
    drawPlot($('loss'), lines, {log: true, steps: data.steps, ends});
  }
}

function drawMemory() {
  const hints = {
    'velocity': 'velocity: a running sum or average of the gradients',
    'second moment': 'second moment: an average of the squared gradients, which divides the step; shown as its root',
    'hidden': 'hidden: what the network passes on', 'cell': 'cell: its long memory (root mean square over units)',
  };
  const rule = state.inner, kept = wayOf(rule).memory, kinds = Object.keys(hints).filter((kind) => kind in kept);
  $('inner-hint').textContent = kinds.length ? kinds.map((kind) => hints[kind]).join('. ') + '.' :
    'Gradient descent remembers nothing: each step is the gradient of the moment, times the learning rate.';
  const lines = [];
  for (const kind of kinds) for (const axis of [0, 1]) {
    const root = kind === 'second moment' ? Math.sqrt : (v) => v;
    const short = kind === 'second moment' ? '√second' : kind;
    lines.push({name: `${kind} ${'xy'[axis]}`, label: `${short}, ${'xy'[axis]}`, values: kept[kind][axis].map(root),
      color: kind === kinds[0] ? colorOf(rule) : 'var(--faint)', dash: axis ? '2 3' : ''});
  }
  drawPlot($('memory'), lines, {log: false, steps: data.steps});
}

// ---- the training ----

const runs = {};
async function unpackTraining() {
  for (const rule in data.training.runs) {
    const raw = data.training.runs[rule], T = data.training.steps + 1;
    const losses = await inflate(raw.losses);
    runs[rule] = {losses: Array.from(asFloats(unpack16(losses, 0, T, T))), counts: await inflate(raw.counts)};
  }
}

function drawTraining() {
  const steps = data.training.steps, [low, high] = data.training.edges, host = $('histograms');
  host.replaceChildren();
  const shown = Object.keys(runs).filter((rule) => state.trained.has(rule));
  for (const rule of shown) {
    const {counts} = runs[rule], bins = counts.length / steps, box = document.createElement('div');
    box.className = 'histogram';
    box.dataset.rule = rule;
    const title = document.createElement('h3');
    title.textContent = data.styles[rule].label;
    box.append(title);
    const root = svg(box, 'svg', {viewBox: '0 0 340 170', class: 'plot', role: 'img', 'aria-label': `lengths of the steps of ${data.styles[rule].label}`});
    const left = 52, right = 244, top = 6, bottom = 136;
    const canvas = document.createElement('canvas');
    canvas.width = steps; canvas.height = bins;
    const context = canvas.getContext('2d'), image = context.createImageData(steps, bins);
    const ink = dark.matches ? 240 : 20;
    for (let t = 0; t < steps; t++) for (let b = 0; b < bins; b++) {
      const n = 4 * ((bins - 1 - b) * steps + t);
      image.data.fill(ink, n, n + 3);
      image.data[n + 3] = Math.sqrt(255 * counts[t * bins + b]);  // so that few are seen, too
    }
    context.putImageData(image, 0, 0);
    svg(root, 'image', {href: canvas.toDataURL(), x: left, y: top, width: right - left, height: bottom - top, preserveAspectRatio: 'none', style: 'image-rendering:pixelated'});
    const axis = svg(root, 'g', {class: 'axis'}), Y = (p) => bottom - (bottom - top) * (p - low) / (high - low);
    svg(axis, 'path', {d: `M${left} ${top}V${bottom}H${right}`});
    for (let p = Math.ceil(low); p <= high; p += 2) svg(axis, 'text', {x: left - 5, y: Y(p) + 4, 'text-anchor': 'end'}, number(10 ** p));
    for (const t of [0, steps / 2, steps]) svg(axis, 'text', {x: left + (right - left) * t / steps, y: bottom + 14, 'text-anchor': 'middle'}, Math.round(t));
    svg(axis, 'text', {x: (left + right) / 2, y: bottom + 28, 'text-anchor': 'middle'}, 'updates');
    svg(axis, 'text', {x: 12, y: (top + bottom) / 2, 'text-anchor': 'middle', transform: `rotate(-90 12 ${(top + bottom) / 2})`}, 'length of a step');
    const t = Math.min(state.step, steps - 1), x = left + (right - left) * (t + 0.5) / steps;
    svg(root, 'path', {d: `M${x} ${top}V${bottom}`, class: 'cursor'});
    let path = `M${right + 10} ${bottom}`;
    for (let b = 0; b < bins; b++) {
      const width = right + 10 + 84 * counts[t * bins + b] / 255;
      path += `L${width.toFixed(1)} ${Y(low + (high - low) * b / bins).toFixed(1)}L${width.toFixed(1)} ${Y(low + (high - low) * (b + 1) / bins).toFixed(1)}`;
    }
    const outline = svg(root, 'path', {d: `${path}L${right + 10} ${top}Z`, style: `fill:${colorOf(rule)}`});
    outline.dataset.histogram = rule;
    svg(axis, 'text', {x: right + 12, y: bottom + 28}, `at update ${t}`);
    host.append(box);
  }
  const lines = shown.map((rule) => ({name: rule, label: `${data.styles[rule].label} ${number(runs[rule].losses[state.step])}`,
    values: runs[rule].losses, color: colorOf(rule), dash: dashOf(rule, 1.4)}));
  drawPlot($('training-loss'), lines, {log: true, steps});
}

// ---- controls ----

function stepsNow() { return state.tab === 'surfaces' ? data.steps : data.training.steps; }

// At first the rate with the lowest loss at the end; where there is no minimum, the middle one.
function bestRate(rule) {
  const middle = Math.floor((data.rates[rule].length - 1) / 2);
  if (!data.surfaces[state.surface].minima.length) return middle;
  const ends = data.rates[rule].map((_, n) => {
    state.rate[rule] = n;
    const end = wayOf(rule).loss[data.steps];
    return Number.isFinite(end) ? end : Infinity;
  });
  return ends.indexOf(Math.min(...ends));
}

async function choose(change) {
  Object.assign(state, change);
  await unpackSurface(state.surface);
  if (change.surface) {
    state.start = data.surfaces[state.surface].first;
    for (const rule of names) state.rate[rule] = bestRate(rule);
  }
  draw();
}

function draw() {
  state.step = Math.min(state.step, stepsNow());
  $('time').max = stepsNow();
  $('time').value = state.step;
  $('now').textContent = `${state.step} / ${stepsNow()}`;
  $('play').textContent = state.playing ? 'Pause' : 'Play';
  $('surface').value = state.surface;
  $('start').value = state.start;
  for (const rates of document.querySelectorAll('select[data-rate]')) rates.value = state.rate[rates.dataset.rate];
  for (const tab of ['surfaces', 'training']) {
    $(tab).hidden = tab !== state.tab;
    $(`tab-${tab}`).setAttribute('aria-selected', tab === state.tab);
    $(`tab-${tab}`).tabIndex = tab === state.tab ? 0 : -1;
  }
  if (state.tab === 'training') { drawTraining(); return; }
  const key = `${state.surface} ${dark.matches}`;
  if ($('map').dataset.drawn !== key) { drawMap(); $('map').dataset.drawn = key; }
  drawWays(); drawLosses(); drawMemory();
}

function stopAt(step) { state.playing = false; clearInterval(timer); go(step); }
function go(step) { state.step = Math.max(0, Math.min(stepsNow(), step)); draw(); }
let timer = 0;
function play(on) {
  state.playing = on;
  clearInterval(timer);
  if (on) {
    if (state.step >= stepsNow()) state.step = 0;
    timer = setInterval(() => { if (state.step >= stepsNow()) play(false); else go(state.step + 1); }, 60);
  }
  draw();
}
function showTab(tab) { if (tab !== state.tab) { state.tab = tab; stopAt(stepsNow()); } }

function ruleRow(rule, set, tail) {
  const row = document.createElement('div'), label = document.createElement('label'), box = document.createElement('input');
  row.className = 'rule';
  box.type = 'checkbox'; box.checked = true; box.dataset.rule = rule;
  box.addEventListener('change', () => { if (box.checked) set.add(rule); else set.delete(rule); draw(); });
  label.append(box);
  const sample = svg(label, 'svg', {viewBox: '0 0 26 8', 'aria-hidden': true});
  svg(sample, 'path', {d: 'M0 4H26', 'stroke-width': 4, ...strokeOf(rule)});
  label.append(data.styles[rule].label);
  row.append(label, tail);
  return row;
}

function option(select, value, text) {
  const element = document.createElement('option');
  element.value = value; element.textContent = text;
  select.append(element);
}

function build() {
  for (const name in data.surfaces) option($('surface'), name, TITLES[name] || name);
  for (let n = 0; n < data.side ** 2; n++) option($('start'), n, `row ${Math.floor(n / data.side) + 1}, column ${n % data.side + 1}`);
  for (const rule of names) {
    const rates = document.createElement('select');
    rates.dataset.rate = rule;
    const label = data.styles[rule].label, learned = label === rule && rule.startsWith('lstm');
    rates.setAttribute('aria-label', learned ? `factor on the steps of ${label}` : `learning rate of ${label}`);
    data.rates[rule].forEach((rate, n) => option(rates, n, learned ? `× ${rate}` : String(rate)));
    rates.addEventListener('change', () => { state.rate[rule] = Number(rates.value); draw(); });
    $('rules').append(ruleRow(rule, state.shown, rates));
    option($('inner'), rule, label);
  }
  state.inner = names.includes('adam') ? 'adam' : names[0];
  $('inner').value = state.inner;
  for (const rule in data.training.runs) {
    const rate = document.createElement('span');
    rate.className = 'rate';
    rate.textContent = rule.startsWith('lstm') ? `steps × ${data.training.runs[rule].rate}` : `rate ${data.training.runs[rule].rate}`;
    $('training-rules').append(ruleRow(rule, state.trained, rate));
  }
  $('weights').textContent = data.training.parameters.toLocaleString('en');
  $('ways').addEventListener('click', (event) => choose({start: nearestStart(event)}));
  $('surface').addEventListener('change', () => choose({surface: $('surface').value, step: data.steps}));
  $('start').addEventListener('change', () => choose({start: Number($('start').value)}));
  $('inner').addEventListener('change', () => choose({inner: $('inner').value}));
  $('time').addEventListener('input', () => stopAt(Number($('time').value)));
  $('play').addEventListener('click', () => play(!state.playing));
  $('back').addEventListener('click', () => stopAt(state.step - 1));
  $('next').addEventListener('click', () => stopAt(state.step + 1));
  for (const tab of ['surfaces', 'training']) $(`tab-${tab}`).addEventListener('click', () => showTab(tab));
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.role === 'tab' || event.target.getAttribute?.('role') === 'tab') {
      if (event.key === 'ArrowLeft' || event.key === 'ArrowRight') {
        showTab(state.tab === 'surfaces' ? 'training' : 'surfaces');
        $(`tab-${state.tab}`).focus();
        event.preventDefault();
      }
      return;
    }
    if (['SELECT', 'INPUT', 'BUTTON'].includes(event.target.tagName)) return;
    const moves = {ArrowLeft: state.step - 1, ArrowRight: state.step + 1, Home: 0, End: stepsNow()};
    if (event.key === ' ') play(!state.playing);
    else if (event.key in moves) stopAt(moves[event.key]);
    else return;
    event.preventDefault();
  });
  dark.addEventListener('change', draw);
  window.addEventListener('resize', draw);
}

async function begin() {
  build();
  state.step = data.steps;  // whole ways at first: the page says something before it is played
  await unpackTraining();
  await choose({surface: state.surface});
  document.body.dataset.ready = 'yes';
}
begin();
