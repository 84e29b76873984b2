'use strict';
// Shows the values of a chart next to the pointer.
for (const chart of document.querySelectorAll('.chart')) {
  const {area, domain, series, map, x_name = 'step', is_log_x} = JSON.parse(chart.querySelector('script').textContent);
  const svg = chart.querySelector('svg');
  const cursor = chart.querySelector('.cursor');
  const box = chart.querySelector('.values');
  const [left, top, right, bottom] = area;
  const place = x => is_log_x ? Math.log10(x) : x;
  const short = v => v === null || v === undefined ? 'none' : String(Number(v.toPrecision(4)));
  const nearest = (xs, x) => {
    let best = 0;
    for (let i = 1; i < xs.length; i++) {
      if (Math.abs(place(xs[i]) - x) < Math.abs(place(xs[best]) - x)) best = i;
    }
    return best;
  };
  const hide = () => { box.style.display = 'none'; cursor.style.visibility = 'hidden'; };
  svg.addEventListener('pointerleave', hide);
  svg.addEventListener('pointermove', event => {
    const bounds = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / bounds.width;
    const px = (event.clientX - bounds.left) * scale;
    const py = (event.clientY - bounds.top) * scale;
    if (px < left - 4 || px > right + 4) return hide();
    const share = Math.min(1, Math.max(0, (px - left) / (right - left)));
    let lines;
    let at;
    if (map) {
      const column = Math.min(map.x.length - 1, Math.floor(share * map.x.length));
      const rows = map.values.length;
      const row = Math.floor((py - top) / (bottom - top) * rows);
      if (row < 0 || row >= rows) return hide();
      at = left + (column + 0.5) / map.x.length * (right - left);
      lines = [`step ${short(map.x[column])}`, `${map.rows[row]}: ${short(map.values[row][column])}`];
    } else {
      const x = domain[0] + share * (domain[1] - domain[0]);
      const marks = series.map(s => ({name: s.name, i: nearest(s.x, x), s}));
      if (!marks.length) return hide();
      const far = m => Math.abs(place(m.s.x[m.i]) - x);
      const best = marks.reduce((a, b) => far(b) < far(a) ? b : a);
      const step = best.s.x[best.i];
      at = left + (place(step) - domain[0]) / ((domain[1] - domain[0]) || 1) * (right - left);
      lines = [`${x_name} ${short(step)}`].concat(marks
        .map(m => ({name: m.name, y: m.s.y[m.i]}))
        .sort((a, b) => (b.y ?? -Infinity) - (a.y ?? -Infinity))
        .map(m => `${m.name}: ${short(m.y)}`));
      if (lines.length > 14) lines = lines.slice(0, 13).concat(`and ${lines.length - 13} more`);
    }
    cursor.setAttribute('x1', at);
    cursor.setAttribute('x2', at);
    cursor.style.visibility = 'visible';
    box.textContent = lines.join('\n');
    box.style.display = 'block';
    const near = px / svg.viewBox.baseVal.width;
    box.style.left = near < 0.5 ? `${near * 100 + 4}%` : 'auto';
    box.style.right = near < 0.5 ? 'auto' : `${(1 - near) * 100 + 4}%`;
  });
}
