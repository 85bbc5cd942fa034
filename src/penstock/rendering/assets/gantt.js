// The pipeline over time on a canvas: every stage a lane, from the whole run down to one micro-batch.
// Where spans are narrower than a pixel, a column shows how the time under it divides.

function unpack(text, count) {
  const raw = atob(text), values = new Float64Array(count);
  let at = 0;
  for (let i = 0; i < count; i++) {
    let value = 0, scale = 1, byte;
    do { byte = raw.charCodeAt(at++); value += (byte & 127) * scale; scale *= 128; } while (byte > 127);
    values[i] = value;
  }
  return values;
}

// What a canvas can do and this chart needs, written down as SVG.
class SvgContext {
  constructor(width, height, measure) {
    Object.assign(this, { width, height, measure, parts: [], path: "", fillStyle: "#000000", strokeStyle: "#000000", lineWidth: 1, globalAlpha: 1 });
  }
  setTransform() {}
  clearRect() {}
  measureText(text) { return this.measure.measureText(text); }
  fillRect(x, y, w, h) { this.parts.push(`<rect x="${x.toFixed(2)}" y="${y.toFixed(2)}" width="${w.toFixed(2)}" height="${h.toFixed(2)}" fill="${this.fillStyle}"${this.globalAlpha < 1 ? ` opacity="${this.globalAlpha}"` : ""}/>`); }
  strokeRect(x, y, w, h) { this.parts.push(`<rect x="${x.toFixed(2)}" y="${y.toFixed(2)}" width="${w.toFixed(2)}" height="${h.toFixed(2)}" fill="none" stroke="${this.strokeStyle}" stroke-width="${this.lineWidth}"/>`); }
  fillText(text, x, y) { this.parts.push(`<text x="${x.toFixed(2)}" y="${y.toFixed(2)}" fill="${this.fillStyle}">${text.replace(/[&<]/g, (c) => c === "&" ? "&amp;" : "&lt;")}</text>`); }
  beginPath() { this.path = ""; }
  moveTo(x, y) { this.path += `M${x.toFixed(2)} ${y.toFixed(2)}`; }
  lineTo(x, y) { this.path += `L${x.toFixed(2)} ${y.toFixed(2)}`; }
  stroke() { this.parts.push(`<path d="${this.path}" fill="none" stroke="${this.strokeStyle}" stroke-width="${this.lineWidth}"/>`); }
  text(background) {
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${this.width}" height="${this.height}" font-family="system-ui, DejaVu Sans, sans-serif" font-size="13">` +
      `<rect width="100%" height="100%" fill="${background}"/>${this.parts.join("")}</svg>`;
  }
}

class Gantt {
  static LANE = 40;
  static GAP = 8;
  static LEFT = 64;
  static AXIS = 26;

  constructor(canvas, inspector, where, data, causes, startNs) {
    Object.assign(this, { canvas, inspector, where, causes, startNs });
    this.stages = data.stages.map((stage) => {
      const packed = unpack(stage.spans, stage.count), n = stage.count;
      const edge = new Float64Array(n + 1), cause = new Uint8Array(n), busy = new Int32Array(n);
      edge[0] = stage.first_ns;
      let steps = 0;
      for (let i = 0; i < n; i++) {
        cause[i] = packed[i] % causes.length;
        edge[i + 1] = edge[i] + Math.floor(packed[i] / causes.length);
        busy[i] = cause[i] === 0 ? steps++ : -1;
      }
      const spanOf = new Int32Array(steps);
      for (let i = 0; i < n; i++) if (busy[i] >= 0) spanOf[busy[i]] = i;
      return { edge, cause, busy, spanOf, n };
    });
    this.steps = { count: data.steps.count };
    for (const [name, text] of Object.entries(data.steps)) if (name !== "count") this.steps[name] = unpack(text, data.steps.count);
    this.begin = startNs;
    this.end = Math.max(data.until_ns, startNs + 1);
    this.from = this.begin;
    this.to = this.end;
    this.selected = -1;
    this.listen();
    this.resize();
  }

  listen() {
    const c = this.canvas;
    c.addEventListener("wheel", (event) => {
      // The wheel alone scrolls the page on.
      const sideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
      if (!sideways && !event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      if (sideways) this.pan((event.deltaX || event.deltaY) / this.width);
      else this.zoom(Math.exp(event.deltaY * 0.002), this.timeAt(event.offsetX));
    }, { passive: false });
    c.addEventListener("pointerdown", (event) => {
      c.setPointerCapture(event.pointerId);
      this.drag = { x: event.offsetX, from: this.from, to: this.to, moved: false };
    });
    c.addEventListener("pointermove", (event) => {
      if (!this.drag) return this.hover(event.offsetX, event.offsetY);
      const shift = (this.drag.x - event.offsetX) / this.width * (this.drag.to - this.drag.from);
      this.drag.moved ||= Math.abs(this.drag.x - event.offsetX) > 3;
      if (this.drag.moved) this.show(this.drag.from + shift, this.drag.to + shift);
    });
    c.addEventListener("pointerup", (event) => {
      if (this.drag && !this.drag.moved) this.pick(event.offsetX, event.offsetY);
      this.drag = null;
    });
    c.addEventListener("dblclick", (event) => { this.pick(event.offsetX, event.offsetY); this.zoomToStep(); });
    c.addEventListener("keydown", (event) => {
      const act = {
        ArrowLeft: () => this.pan(-0.2), ArrowRight: () => this.pan(0.2),
        "+": () => this.zoom(0.6), "=": () => this.zoom(0.6), ArrowUp: () => this.zoom(0.6),
        "-": () => this.zoom(1 / 0.6), ArrowDown: () => this.zoom(1 / 0.6),
        Home: () => this.show(this.begin, this.end), Enter: () => this.zoomToStep(),
        n: () => this.select(this.selected < 0 ? this.stepAtCentre() : this.selected + 1),
        p: () => this.select(this.selected < 0 ? this.stepAtCentre() : this.selected - 1),
        Escape: () => { this.selected = -1; this.say(""); this.draw(); },
      }[event.key];
      if (act && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); act(); }
    });
    new ResizeObserver(() => this.resize()).observe(c.parentElement);
  }

  resize() {
    const ratio = window.devicePixelRatio || 1, box = this.canvas.parentElement.clientWidth;
    this.height = this.stages.length * (Gantt.LANE + Gantt.GAP) + Gantt.AXIS;
    this.canvas.style.height = this.height + "px";
    const full = this.canvas.clientWidth || box;
    this.width = Math.max(50, full - Gantt.LEFT);
    this.canvas.width = Math.round(full * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.ratio = ratio;
    this.draw();
  }

  timeAt(x) { return this.from + (x - Gantt.LEFT) / this.width * (this.to - this.from); }
  xAt(ns) { return Gantt.LEFT + (ns - this.from) / (this.to - this.from) * this.width; }
  pan(share) { const by = share * (this.to - this.from); this.show(this.from + by, this.to + by); }
  zoom(factor, around) {
    const middle = around ?? (this.selected >= 0 && this.stepVisible() ? this.stepMiddle() : (this.from + this.to) / 2);
    this.show(middle - (middle - this.from) * factor, middle + (this.to - middle) * factor);
  }
  show(from, to) {
    const least = 100, whole = this.end - this.begin, length = Math.min(Math.max(to - from, least), Math.max(whole, least));
    const first = Math.min(Math.max(from, this.begin), Math.max(this.end - length, this.begin));
    this.from = first;
    this.to = first + length;
    this.draw();
  }

  // The span of a stage at a time, by bisection; -1 outside.
  spanAt(stage, ns) {
    const { edge, n } = stage;
    if (!n || ns < edge[0] || ns >= edge[n]) return -1;
    let low = 0, high = n;
    while (high - low > 1) { const middle = (low + high) >> 1; if (edge[middle] <= ns) low = middle; else high = middle; }
    return low;
  }
  spanUnder(x, y) {
    const lane = Math.floor(y / (Gantt.LANE + Gantt.GAP));
    if (x < Gantt.LEFT || lane < 0 || lane >= this.stages.length) return null;
    const span = this.spanAt(this.stages[lane], this.timeAt(x));
    return span < 0 ? null : { lane, span };
  }
  hover(x, y) {
    const under = this.spanUnder(x, y);
    if (!under || this.selected >= 0) return;
    const { first, last } = this.inView(this.stages[under.lane]);
    this.say(this.isDetailed(first, last) ? this.describe(under.lane, under.span) : this.describeColumn(under.lane, x));
  }
  inView(stage) {
    const first = Math.max(this.spanAt(stage, Math.max(this.from, stage.edge[0])), 0);
    let last = this.spanAt(stage, this.to);
    if (last < 0) last = this.to < stage.edge[0] ? -1 : stage.n - 1;
    return { first, last };
  }
  isDetailed(first, last) { return last - first < 2 * this.width; }
  // How the time under a column of pixels divides.
  describeColumn(lane, x) {
    const stage = this.stages[lane], column = Math.floor(x), from = Math.max(this.timeAt(column), this.begin), to = Math.min(this.timeAt(column + 1), this.end);
    const sums = new Float64Array(this.causes.length);
    for (let i = Math.max(this.spanAt(stage, from), 0); i < stage.n && stage.edge[i] < to; i++)
      sums[stage.cause[i]] += Math.max(0, Math.min(stage.edge[i + 1], to) - Math.max(stage.edge[i], from));
    const total = sums.reduce((a, b) => a + b, 0) || 1;
    const told = [...sums].map((ns, kind) => [ns / total, this.causes[kind]]).filter(([share]) => share >= 0.0005).sort((a, b) => b[0] - a[0]);
    return `stage ${lane}, ${readableTime(from - this.startNs, 6)} + ${readableTime(to - from)}: ${told.map(([share, name]) => `${name} ${number(100 * share, 1)}%`).join(", ")}`;
  }
  pick(x, y) {
    const under = this.spanUnder(x, y);
    if (!under) return;
    this.selected = this.stages[under.lane].busy[under.span];
    this.say(this.describe(under.lane, under.span));
    this.draw();
  }
  stepSpan(lane) {
    const span = this.stages[lane].spanOf[this.selected];
    return span === undefined ? null : [this.stages[lane].edge[span], this.stages[lane].edge[span + 1]];
  }
  stepAtCentre() {
    const stage = this.stages[0];
    let span = this.spanAt(stage, (this.from + this.to) / 2);
    while (span > 0 && stage.busy[span] < 0) span--;
    return span < 0 ? 0 : Math.max(0, stage.busy[span]);
  }
  stepMiddle() { const span = this.stepSpan(0); return span ? (span[0] + span[1]) / 2 : (this.from + this.to) / 2; }
  stepVisible() { const middle = this.stepMiddle(); return middle >= this.from && middle <= this.to; }
  select(step) {
    this.selected = Math.min(Math.max(step, 0), this.steps.count - 1);
    const span = this.stages[0].spanOf[this.selected];
    if (span === undefined) return;
    if (!this.stepVisible()) { const half = (this.to - this.from) / 2; this.show(this.stepMiddle() - half, this.stepMiddle() + half); }
    this.say(this.describe(0, span));
    this.draw();
  }
  zoomToStep() {
    if (this.selected < 0) this.selected = this.stepAtCentre();
    const ways = this.stages.map((_, lane) => this.stepSpan(lane)).filter(Boolean);
    if (!ways.length) return;
    const first = ways[0][0], last = ways[ways.length - 1][1], margin = (last - first) * 0.25;
    this.show(first - margin, last + margin);
    this.select(this.selected);
  }

  describe(lane, span) {
    const stage = this.stages[lane], from = stage.edge[span], to = stage.edge[span + 1], step = stage.busy[span];
    const when = `stage ${lane}, ${readableTime(from - this.startNs, 6)} + ${readableTime(to - from)}`;
    if (step < 0) return `${when}: ${this.causes[stage.cause[span]]}`;
    const of = (name) => this.steps[name] ? this.steps[name][step].toLocaleString("en") : "?";
    return `${when}: step ${step.toLocaleString("en")} with ${of("tokens")} tokens (${of("decodes")} decodes; ${of("prefill_tokens")} tokens of ${of("prefills")} prefills) after ${of("context_tokens")} of context; ` +
      `${of("running")} running, ${of("waiting")} waiting, ${of("free_blocks")} KV blocks free`;
  }
  say(text) { this.inspector.textContent = text || "Point at a span, or press n for a micro-batch."; }

  svg() {
    const width = Gantt.LEFT + this.width, g = new SvgContext(width, this.height, this.canvas.getContext("2d"));
    this.draw(g);
    return svgUrl(g.text(css("card")));
  }
  draw(g = this.canvas.getContext("2d")) {
    if (!this.width) return;
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue("--" + name).trim();
    const causes = this.causes.map((name) => colour(name));
    const shades = ["busy", "busy-b", "busy-c", "busy-d"].map(colour), prefill = colour("prefill");
    g.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    g.clearRect(0, 0, Gantt.LEFT + this.width, this.height);
    g.font = "13px system-ui, 'DejaVu Sans', sans-serif";
    this.stages.forEach((_, lane) => {
      g.fillStyle = colour("idle");
      g.fillRect(Gantt.LEFT, lane * (Gantt.LANE + Gantt.GAP), this.width, Gantt.LANE);
    });
    this.drawAxis(g, colour("ink"), colour("line"));
    this.stages.forEach((stage, lane) => {
      const top = lane * (Gantt.LANE + Gantt.GAP);
      g.fillStyle = colour("ink");
      g.fillText("stage " + lane, 4, top + Gantt.LANE / 2 + 5);
      if (!stage.n) return;
      const { first, last } = this.inView(stage);
      if (this.isDetailed(first, last)) this.drawSpans(g, stage, first, last, top, causes, shades, prefill, colour("ink"));
      else this.drawShares(g, stage, first, last, top, causes);
    });
    this.where.textContent = `${readableTime(this.from - this.startNs, 6)} to ${readableTime(this.to - this.startNs, 6)} (${readableTime(this.to - this.from)})`;
  }
  drawSpans(g, stage, first, last, top, causes, shades, prefill, ink) {
    for (let i = first; i <= last; i++) {
      const x0 = Math.max(this.xAt(stage.edge[i]), Gantt.LEFT), x1 = Math.min(this.xAt(stage.edge[i + 1]), Gantt.LEFT + this.width);
      const step = stage.busy[i], wide = Math.max(x1 - x0, 0.4);
      if (step < 0) {
        g.globalAlpha = 0.75;
        g.fillStyle = causes[stage.cause[i]];
        g.fillRect(x0, top + Gantt.LANE * 0.3, wide, Gantt.LANE * 0.4);
        g.globalAlpha = 1;
        continue;
      }
      g.fillStyle = shades[step % 4];
      g.fillRect(x0, top, wide > 3 ? wide - 0.6 : wide, Gantt.LANE);
      if (this.steps.prefills && this.steps.prefills[step]) { g.fillStyle = prefill; g.fillRect(x0, top, wide, 6); }
      if (wide > 46) {
        g.fillStyle = "#ffffff";
        g.fillText(String(step), x0 + 5, top + Gantt.LANE / 2 + 6, wide - 8);
      }
      if (step === this.selected) { g.strokeStyle = ink; g.lineWidth = 2.5; g.strokeRect(x0 + 1, top + 1, Math.max(wide - 2, 1), Gantt.LANE - 2); }
    }
  }
  drawShares(g, stage, first, last, top, causes) {
    const columns = Math.ceil(this.width), kinds = causes.length, sums = new Float64Array(columns * kinds);
    const scale = columns / (this.to - this.from);
    for (let i = first; i <= last; i++) {
      let x0 = Math.max((stage.edge[i] - this.from) * scale, 0);
      const x1 = Math.min((stage.edge[i + 1] - this.from) * scale, columns), kind = stage.cause[i];
      while (x0 < x1) {
        const column = Math.floor(x0), edge = Math.min(column + 1, x1);
        sums[column * kinds + kind] += edge - x0;
        x0 = edge;
      }
    }
    for (let column = 0; column < columns; column++) {
      let y = top + Gantt.LANE;
      for (let kind = 0; kind < kinds; kind++) {
        const high = sums[column * kinds + kind] * Gantt.LANE;
        if (high <= 0) continue;
        g.fillStyle = causes[kind];
        g.fillRect(Gantt.LEFT + column, y - high, 1, high);
        y -= high;
      }
    }
  }
  drawAxis(g, ink, line) {
    const span = this.to - this.from, rough = span / Math.max(2, this.width / 110), power = 10 ** Math.floor(Math.log10(rough));
    const tick = [1, 2, 5, 10].map((m) => m * power).find((t) => t >= rough);
    const y = this.height - Gantt.AXIS + 4, [scale, unit] = span >= 2e9 ? [1e9, "s"] : span >= 2e6 ? [1e6, "ms"] : span >= 2e3 ? [1e3, "µs"] : [1, "ns"];
    const digits = Math.max(0, Math.ceil(-Math.log10(tick / scale)));
    g.strokeStyle = line;
    g.fillStyle = ink;
    g.lineWidth = 1;
    for (let t = Math.ceil((this.from - this.startNs) / tick) * tick; t <= this.to - this.startNs; t += tick) {
      const x = this.xAt(t + this.startNs);
      g.beginPath(); g.moveTo(x, 0); g.lineTo(x, y); g.stroke();
      const label = (t / scale).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }) + " " + unit;
      if (x + g.measureText(label).width < Gantt.LEFT + this.width) g.fillText(label, x + 3, y + 14);
    }
  }
}
