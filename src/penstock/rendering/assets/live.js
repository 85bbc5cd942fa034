// The page of a running server, from what it says of itself twice a second.
const REFRESH_MS = 500, LANE = 26, LEFT = 64;
const at = (id) => document.getElementById(id);
const percent = (part) => number(100 * part, 1) + "%";
const three = (values) => values ? values.join(" / ") : "none yet";
const spoken = (cause) => cause.replace("_", " ");
let panels = [], latest = null;

const fact = ([label, value]) => element("div", { class: "fact" }, element("b", String(value).length > 16 ? { class: "long" } : {}, String(value)), element("span", { class: "soft small" }, label));

function build(data) {
  at("instances").replaceChildren();
  panels = data.instances.map((one, place) => {
    const kinds = [...new Set(one.hardware)].join(", ");
    const facts = element("section", { class: "facts", "aria-label": `Instance ${place} in short` });
    const gantt = element("canvas", { class: "gantt", role: "img", "aria-label": `What each stage of instance ${place} did in the last seconds`, style: `height: ${LANE * one.layers.length + 22}px` });
    const series = element("canvas", { class: "series", role: "img", "aria-label": `Requests and KV cache of instance ${place} in the last minute`, style: "height: 110px" });
    const causes = element("div", { class: "legend" }), shares = element("div");
    at("instances").append(
      element("h2", {}, `Instance ${place}: ${one.model}, ${kinds}, tp ${one.tp} x pp ${one.layers.length}`), facts,
      element("div", { class: "card" }, element("h3", {}, "The last seconds of its stages"), gantt, causes),
      element("div", { class: "columns" },
        element("div", { class: "card" }, element("h3", {}, "Requests and KV cache, the last minute"), series),
        element("div", { class: "card" }, element("h3", {}, "Time of each stage since the server began"), shares)));
    return { facts, gantt, causes, series, shares };
  });
}
function surface(canvas) {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight, g = canvas.getContext("2d");
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  g.scale(ratio, ratio);
  g.font = "13px system-ui, 'DejaVu Sans', sans-serif";
  g.fillStyle = css("ink");
  return { g, width, height };
}
function drawStages(canvas, one, data) {
  const { g, width } = surface(canvas), wide = width - LEFT, colours = data.causes.map(css);
  one.spans.forEach((spans, stage) => {
    const top = LANE * stage;
    g.fillStyle = css("ink");
    g.fillText(`stage ${stage}`, 0, top + 16);
    g.fillStyle = colours[data.causes.indexOf("idle")];
    g.fillRect(LEFT, top + 2, wide, LANE - 6);
    for (const [begin, length, cause] of spans) {
      g.fillStyle = colours[cause];
      g.fillRect(LEFT + wide * (1 + begin / data.window_us), top + 2, Math.max(wide * length / data.window_us, 0.3), LANE - 6);
    }
  });
  g.fillStyle = css("soft");
  const bottom = LANE * one.spans.length + 14;
  g.fillText(`${data.window_us / 1e6} s ago`, LEFT, bottom);
  g.fillText("now", width - 28, bottom);
}
function drawSeries(canvas, place, data) {
  const { g, width, height } = surface(canvas), left = 96, rows = data.series.values.map((values) => values[place]);
  const most = Math.max(1, ...rows.map(([running, waiting]) => Math.max(running, waiting)));
  const lines = [["running", 0, "accent", most, []], ["waiting", 1, "series-1", most, [3, 3]], ["KV cache", 2, "series-2", 1, [8, 3]]];
  lines.forEach(([label, column, colour, top, dash], row) => {
    const last = rows.length ? rows[rows.length - 1][column] : 0;
    g.strokeStyle = css(colour);
    g.lineWidth = 1.8;
    g.setLineDash(dash);
    g.beginPath();
    g.moveTo(0, 14 + 34 * row - 4);
    g.lineTo(18, 14 + 34 * row - 4);
    rows.forEach((values, i) => {
      const x = left + (width - left) * (rows.length < 2 ? 1 : i / (rows.length - 1)), y = height - 4 - (height - 10) * values[column] / top;
      if (i) g.lineTo(x, y); else g.moveTo(x, y);
    });
    g.stroke();
    g.fillStyle = css("ink");
    g.fillText(label, 24, 14 + 34 * row);
    g.fillStyle = css("soft");
    g.fillText(column === 2 ? percent(last) : `${last} (to ${most})`, 24, 29 + 34 * row);
  });
}
function showInstance(one, place, data) {
  const panel = panels[place];
  panel.facts.replaceChildren(...[["running", `${one.running} of ${one.max_num_seqs}`], ["waiting", one.waiting], ["KV cache in use", percent(one.kv_usage)], ["preemptions", one.preemptions]].map(fact));
  drawStages(panel.gantt, one, data);
  drawSeries(panel.series, place, data);
  const used = data.causes.map((name, cause) => [name, cause]).filter(([, cause]) => one.shares.some((row) => row[cause] > 0));
  panel.causes.replaceChildren(...used.map(([name]) => element("span", {}, element("i", { style: `background: var(--${name})` }), spoken(name))));
  const rows = one.shares.map((row, stage) => [`stage ${stage} (${one.layers[stage]} layers)`, ...used.map(([, cause]) => percent(row[cause]))]);
  panel.shares.replaceChildren(table(["", ...used.map(([name]) => spoken(name))], rows, `Time of the stages of instance ${place}`));
}
function showAll(data) {
  if (panels.length !== data.instances.length) build(data);
  at("facts").replaceChildren(...[
    ["open requests", data.open], ["finished", data.finished],
    ["TTFT p50 / p90 / p99, ms", three(data.ttft_ms)], ["TPOT p50 / p90 / p99, ms", three(data.tpot_ms)],
    ["tokens late by p50 / p99 / max, ms", three(data.lateness_ms)],
  ].map(fact));
  data.instances.forEach((one, place) => showInstance(one, place, data));
}
// The clock goes on without a word; trouble is spoken.
function tell(state, text, trouble) {
  if (state.textContent !== text) state.textContent = text;
  if (trouble) state.setAttribute("role", "alert");
  else state.removeAttribute("role");
}
async function refresh() {
  const state = at("state");
  try {
    latest = await (await fetch("penstock/data", { cache: "no-store" })).json();
    const clock = `simulated time ${number(latest.now_s, 1)} s` + (latest.time_scale === 1 ? "" : `, ${latest.time_scale} per second`);
    tell(state, latest.failure || clock, Boolean(latest.failure));
    showAll(latest);
  } catch (error) {
    tell(state, "the server does not answer", true);
  }
  setTimeout(refresh, REFRESH_MS);
}
redrawn.push(() => latest && showAll(latest));
ready();
refresh();
