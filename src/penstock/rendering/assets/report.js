"use strict";
const page = JSON.parse(document.getElementById("data").textContent);
const runs = page.runs, several = runs.length > 1;
const root = document.documentElement;
// Okabe and Ito's colours, told apart by every common kind of colour vision; dashes tell runs apart as well.
const RUN_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const css = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
const number = (value, digits = 2) => value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits });
const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};
const charts = [];
let gantt = null;

function layout(x, y, more = {}) {
  const axis = (title) => ({ title: { text: title, standoff: 8 }, gridcolor: css("grid"), zerolinecolor: css("line"), linecolor: css("line"), automargin: true });
  const made = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("ink"), size: 13 },
    margin: { l: 60, r: 14, t: 34, b: 48 }, legend: { orientation: "h", y: 1.16, x: 0, traceorder: "normal" }, hovermode: "closest",
    xaxis: axis(x), yaxis: { ...axis(y), rangemode: "tozero" }, ...more,
  };
  return made;
}
// A chart is redrawn when the theme changes; the keyboard moves its horizontal axis.
function chart(id, traces, makeLayout) {
  const place = document.getElementById(id);
  if (!traces().some((trace) => trace.x.length)) {
    place.closest(".card").hidden = true;
    return;
  }
  const draw = () => Plotly.react(place, traces(), makeLayout(), { responsive: true, displaylogo: false, displayModeBar: false });
  // Drawn when it comes near the view: a long page opens at once.
  new IntersectionObserver((seen, observer) => {
    if (!seen.some((one) => one.isIntersecting)) return;
    observer.disconnect();
    charts.push(draw);
    draw();
  }, { rootMargin: "500px" }).observe(place);
  place.tabIndex = 0;
  place.setAttribute("role", "img");
  place.addEventListener("keydown", (event) => {
    const axis = place._fullLayout?.xaxis;
    if (!axis) return;
    const [from, to] = axis.range, span = to - from;
    const range = {
      "+": [from + span * 0.2, to - span * 0.2], "=": [from + span * 0.2, to - span * 0.2], "-": [from - span / 3, to + span / 3],
      ArrowLeft: [from - span * 0.2, to - span * 0.2], ArrowRight: [from + span * 0.2, to + span * 0.2],
    }[event.key];
    if (axis.type === "category" || !(range || event.key === "Home")) return;
    event.preventDefault();
    Plotly.relayout(place, range ? { "xaxis.range": range } : { "xaxis.autorange": true });
  });
}
const line = (run) => several ? { color: RUN_COLOURS[run % 6], dash: DASHES[run % 6], width: 2 } : undefined;
const named = (run, name) => several ? `${runs[run].name}: ${name}` : name;

function verdicts() {
  const place = document.getElementById("verdict");
  for (const run of runs) {
    const shown = run.instances.slice(0, 4);
    for (const instance of shown) {
      if (several || shown.length > 1) place.append(element("p", { class: "soft small" }, `${several ? run.name + ", " : ""}${instance.title}`));
      for (const sentence of instance.verdict) place.append(element("p", {}, sentence));
    }
    if (run.instances.length > shown.length) place.append(element("p", { class: "soft small" }, `${run.instances.length - shown.length} more instances below`));
  }
}
function facts() {
  const place = document.getElementById("facts");
  if (several || !place) return;
  const { summary, latency } = runs[0], rates = summary.throughput;
  const ms = (of, key) => of ? `${number(of[key] / 1e6)} ms` : "–";
  for (const [title, value] of [
    ["requests finished", number(summary.requests.finished)],
    ["requests per second", rates ? number(rates.requests_per_s, 3) : "–"],
    ["generated tokens per second", rates ? number(rates.generated_tokens_per_s, 1) : "–"],
    ["TTFT, median", ms(latency.ttft, "p50_ns")], ["TTFT, p99", ms(latency.ttft, "p99_ns")],
    ["TPOT, median", ms(latency.tpot, "p50_ns")], ["TPOT, p99", ms(latency.tpot, "p99_ns")],
    ["simulated", `${number(summary.simulated_ns / 1e9, 3)} s`],
  ]) place.append(element("div", { class: "fact" }, element("b", {}, value), element("span", { class: "soft small" }, title)));
}
function table(head, rows) {
  return element("div", { class: "scroll" }, element("table", {},
    element("thead", {}, element("tr", {}, ...head.map((cell) => element("th", { scope: "col" }, cell)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell, i) => element(i ? "td" : "th", i ? {} : { scope: "row" }, cell)))))));
}
function latencies() {
  const keys = ["mean_ns", "p50_ns", "p90_ns", "p95_ns", "p99_ns", "max_ns"], rows = [];
  for (const [title, key] of [["TTFT", "ttft"], ["TPOT", "tpot"], ["ITL", "itl"], ["latency", "latency"], ["queuing", "queuing"]])
    runs.forEach((run) => { const of = run.latency[key]; if (of) rows.push([several ? `${title}, ${run.name}` : title, ...keys.map((k) => number(of[k] / 1e6, 3)), number(of.count, 0)]); });
  document.getElementById("latencies").append(table(["ms", "mean", "p50", "p90", "p95", "p99", "max", "values"], rows));
  ["TTFT", "TPOT", "latency", "queuing"].forEach((title) => chart(`cdf-${title}`,
    () => runs.map((run, i) => ({ ...run.cdfs[title], name: run.name, mode: "lines", line: line(i) ?? { color: css("accent"), width: 2 }, showlegend: several, hovertemplate: "%{y:.1f}% of requests within %{x:.3f} ms<extra></extra>" })),
    () => layout(`${title} (ms)`, "requests (%)")));
}
function overTime() {
  const draw = (id, series, unit) => chart(id,
    () => runs.flatMap((run, i) => run.over_time.t ? series.map(([key, name, colour, dash]) => ({
      x: run.over_time.t, y: run.over_time[key], name: named(i, name), mode: "lines", hovertemplate: `%{y:,.1f} ${name} at %{x:.3f} s<extra></extra>`,
      line: several ? { color: RUN_COLOURS[i % 6], dash: dash, width: 1.8 } : { color: colour(), dash, width: 1.8 } })) : []),
    () => layout("simulated time (s)", unit));
  draw("rates", [["prompt", "prompt tokens", () => css("dependency"), "dot"], ["generated", "generated tokens", () => css("accent"), "solid"]], "tokens per second");
  draw("queues", [["running", "running", () => css("accent"), "solid"], ["waiting", "waiting", () => css("imbalance"), "dot"]], "requests");
  draw("kv", [["kv", "KV blocks in use", () => css("fill"), "solid"]], "KV blocks in use (%)");
}
function stageRows() {
  return runs.flatMap((run, r) => run.instances.flatMap((instance) => instance.stages.map((stage) => ({
    run: r, instance, stage, label: `${several ? run.name + " " : ""}${run.instances.length > 1 ? instance.title + " " : ""}stage ${stage.stage}` }))));
}
function bubbles() {
  const rows = stageRows().filter((row) => row.instance.causes.length), causes = runs[0].causes;
  chart("bubbles",
    () => causes.map((cause) => ({
      type: "bar", orientation: "h", name: cause, y: rows.map((row) => row.label),
      x: rows.map((row) => { const of = row.instance.causes[row.stage.stage]; return 100 * of[cause] / Math.max(1, Object.values(of).reduce((a, b) => a + b, 0)); }),
      customdata: rows.map((row) => row.instance.causes[row.stage.stage][cause] / 1e9),
      hovertemplate: `${cause} %{x:.2f}% (%{customdata:.6f} s)<extra>%{y}</extra>`,
      marker: { color: css(cause === "busy" ? "busy-a" : cause), line: { color: css("card"), width: 1 }, pattern: { shape: { imbalance: "/", dependency: ".", memory: "x", seqs: "+", engine: "\\", transfer: "-" }[cause] || "", fillmode: "overlay", fgcolor: css("card"), size: 6, solidity: 0.25 } },
    })).filter((trace) => trace.x.some((value) => value >= 0.005)),
    () => layout("share of the run (%)", "", { barmode: "stack", height: 130 + 34 * rows.length, yaxis: { autorange: "reversed", automargin: true, type: "category" }, xaxis: { title: { text: "share of the run, first arrival to last completion (%)" }, range: [0, 100], gridcolor: css("grid") } }));
  const shown = causes.filter((cause) => rows.some((row) => row.instance.causes[row.stage.stage][cause]));
  document.getElementById("bubble-table").append(table(["ms", ...shown], rows.map((row) => [row.label, ...shown.map((cause) => number(row.instance.causes[row.stage.stage][cause] / 1e6, 3))])));
}
function cohorts() {
  chart("cohorts",
    () => runs.flatMap((run, r) => run.instances.flatMap((instance) => {
      const of = instance.cohorts, name = named(r, instance.title), colour = several || run.instances.length > 1 ? RUN_COLOURS[(r + run.instances.indexOf(instance)) % 6] : css("accent");
      if (!of.t) return [];
      if (of.steps) return [{ x: of.t, y: of.steps, name, mode: "markers", marker: { size: 4, color: colour, opacity: 0.6 }, hovertemplate: "%{y} decodes at %{x:.3f} s<extra></extra>" }];
      return [["least", "dot"], ["mean", "solid"], ["most", "dash"]].map(([key, dash]) => ({ x: of.t, y: of[key], name: `${name}, ${key}`, mode: "lines", line: { color: colour, dash, width: 1.6 }, hovertemplate: `${key} %{y} decodes at %{x:.3f} s<extra></extra>` }));
    })),
    () => layout("simulated time (s)", "decodes in a step"));
}
function memory() {
  const rows = stageRows(), parts = [...new Set(runs.flatMap((run) => run.instances.flatMap((one) => one.memory.flatMap((stage) => stage.map(([part]) => part)))))];
  const colours = { weights: "accent", "KV cache": "fill", stranded: "imbalance", "not to be used": "idle" }, other = ["dependency", "memory", "engine", "transfer"];
  chart("memory",
    () => parts.map((part, i) => ({
      type: "bar", orientation: "h", name: part, y: rows.map((row) => row.label),
      x: rows.map((row) => (row.instance.memory[row.stage.stage].find(([name]) => name === part) || [0, 0])[1] / 2 ** 30),
      hovertemplate: `${part} %{x:.3f} GiB<extra>%{y}</extra>`,
      marker: { color: css(colours[part] || other[i % 4]), line: { color: css("card"), width: 1 }, pattern: { shape: part === "stranded" ? "/" : "", fillmode: "overlay", fgcolor: css("card"), size: 6, solidity: 0.3 } } })),
    () => layout("memory per NPU (GiB)", "", { barmode: "stack", height: 130 + 34 * rows.length, yaxis: { autorange: "reversed", automargin: true, type: "category" } }));
}
function inputs() {
  const place = document.getElementById("inputs");
  for (const run of runs) {
    if (several) place.append(element("p", {}, element("b", {}, run.name)));
    place.append(element("ul", {}, ...[...run.basis.map((text) => `rests on ${text}`), ...run.notes.map((text) => `note: ${text}`), ...run.rejections.map((text) => `rejected: ${text}`)].map((text) => element("li", {}, text))));
    place.append(element("details", {}, element("summary", {}, "all inputs, as resolved"), element("pre", {}, JSON.stringify(run.inputs, null, 2))));
  }
}
function pipeline() {
  const section = document.getElementById("pipeline"), run = runs[0];
  if (several || !run.gantt.length) return section && section.remove();
  const canvas = document.getElementById("gantt"), chooser = document.getElementById("instance");
  run.instances.forEach((one, i) => chooser.append(element("option", { value: i }, `${one.title}: ${one.model}`)));
  chooser.hidden = run.instances.length < 2;
  const show = (i) => {
    const fresh = canvas.cloneNode(), old = document.getElementById("gantt");
    old.replaceWith(fresh);
    gantt = new Gantt(fresh, document.getElementById("inspect"), document.getElementById("where"), run.gantt[i], run.causes, run.start_ns);
    gantt.say("");
    document.getElementById("partial").hidden = run.gantt[i].complete;
    window.gantt = gantt;
  };
  chooser.addEventListener("change", () => show(Number(chooser.value)));
  for (const [id, act] of Object.entries({ "zoom-in": () => gantt.zoom(0.5), "zoom-out": () => gantt.zoom(2), earlier: () => gantt.pan(-0.3), later: () => gantt.pan(0.3), whole: () => gantt.show(gantt.begin, gantt.end), step: () => gantt.zoomToStep() }))
    document.getElementById(id).addEventListener("click", act);
  const legend = document.getElementById("legend");
  for (const cause of run.causes) if (run.instances.some((one) => one.causes.some((stage) => stage[cause])))
    legend.append(element("span", {}, element("i", { style: `background: var(--${cause === "busy" ? "busy-a" : cause})` }), cause));
  legend.append(element("span", {}, element("i", { style: "background: var(--prefill)" }), "busy, with prefill (upper edge)"));
  show(0);
}
function theme(name) {
  root.dataset.theme = name;
  for (const draw of charts) draw();
  if (gantt) gantt.draw();
}
const dark = window.matchMedia("(prefers-color-scheme: dark)");
root.dataset.theme = dark.matches ? "dark" : "light";
dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
document.getElementById("theme").addEventListener("click", () => theme(root.dataset.theme === "dark" ? "light" : "dark"));
for (const part of [verdicts, facts, pipeline, bubbles, latencies, overTime, cohorts, memory, inputs]) part();
root.dataset.ready = "yes";
