// Where a chart has marks, in pixels of the window: at most `most` of them, spread over its traces.
(chart, most) => {
  const box = chart.getBoundingClientRect(), out = [];
  const layout = chart._fullLayout;
  const traces = (chart._fullData || []).filter(t => t.visible === true && t.x && t.y && layout[axis(t.xaxis, "x")]);
  function axis(id, letter) { return letter + "axis" + (id || letter).slice(1); }
  for (const t of traces) {
    const across = layout[axis(t.xaxis, "x")], up = layout[axis(t.yaxis, "y")];
    const n = Math.min(t.x.length, t.y.length), each = Math.max(1, Math.ceil(n / Math.max(1, Math.floor(most / traces.length))));
    for (let k = 0; k < n; k += each) {
      const x = across._offset + across.d2p(t.x[k]), height = up.d2p(t.y[k]);
      const y = up._offset + (t.type === "bar" ? (height + up.d2p(0)) / 2 : height);
      if (Number.isFinite(x) && Number.isFinite(y)) out.push([box.left + x, box.top + y]);
    }
  }
  return out;
}
