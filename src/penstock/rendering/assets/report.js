// The report of a run, and several runs side by side.
const runs = page.runs, several = runs.length > 1;
const runColour = (run) => css(`series-${run % 8}`);
let gantt = null;
const line = (run) => several ? { color: runColour(run), dash: DASHES[run % 6], width: 2 } : undefined;
const named = (run, name) => several ? `${runs[run].name}: ${name}` : name;
const bars = (rows) => ({ barmode: "stack", height: 130 + 34 * rows.length, yaxis: { autorange: "reversed", type: "category", rangemode: "normal" } });

function runLegend() {
  const place = document.getElementById("runs");
  if (!several) return;
  place.hidden = false;
  const fill = () => place.replaceChildren(...runs.map((run, i) => {
    const sample = document.createElementNS("http://www.w3.org/2000/svg", "svg"), stroke = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of Object.entries({ width: 34, height: 10, "aria-hidden": "true" })) sample.setAttribute(name, value);
    for (const [name, value] of Object.entries({ x1: 0, x2: 34, y1: 5, y2: 5, stroke: runColour(i), "stroke-width": 3, "stroke-dasharray": { solid: "", dash: "8 4", dot: "3 3", dashdot: "8 3 3 3", longdash: "14 4", longdashdot: "14 3 3 3" }[DASHES[i % 6]] })) stroke.setAttribute(name, value);
    sample.append(stroke);
    return element("span", {}, sample, run.name);
  }));
  fill();
  redrawn.push(fill);
}
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
  const time = (of, key) => of ? readableTime(of[key]) : "–";
  for (const [title, value] of [
    ["requests finished", number(summary.requests.finished, 0)],
    ["requests per second", rates ? number(rates.requests_per_s, 3) : "–"],
    ["generated tokens per second", rates ? number(rates.generated_tokens_per_s, 1) : "–"],
    ["TTFT, median", time(latency.ttft, "p50_ns")], ["TTFT, p99", time(latency.ttft, "p99_ns")],
    ["TPOT, median", time(latency.tpot, "p50_ns")], ["TPOT, p99", time(latency.tpot, "p99_ns")],
    ["simulated", readableTime(summary.simulated_ns)],
  ]) place.append(element("div", { class: "fact" }, element("b", {}, value), element("span", { class: "soft small" }, title)));
}
function latencies() {
  const keys = ["mean_ns", "p50_ns", "p90_ns", "p95_ns", "p99_ns", "max_ns"], rows = [];
  for (const [title, key] of [["TTFT", "ttft"], ["TPOT", "tpot"], ["ITL", "itl"], ["latency", "latency"], ["queuing", "queuing"]])
    runs.forEach((run) => {
      const of = run.latency[key];
      if (of) rows.push([several ? `${title}, ${run.name}` : title, ...keys.map((k) => readableTime(of[k])), number(of.count, 0)]);
    });
  document.getElementById("latencies").append(table(["", "mean", "p50", "p90", "p95", "p99", "max", "values"], rows, "Latencies"));
  ["TTFT", "TPOT", "latency", "queuing"].forEach((title) => {
    const largest = Math.max(...runs.map((run) => run.cdfs[title].x.at(-1) || 0)), [scale, unit] = largest >= 1000 ? [1000, "s"] : [1, "ms"];
    const least = Math.min(...runs.flatMap((run) => run.cdfs[title].x.slice(0, 1))), wide = title === "TTFT" && least > 0 && largest > 5 * least;
    chart(`cdf-${title}`,
      () => runs.map((run, i) => ({ x: run.cdfs[title].x.map((ms) => ms / scale), y: run.cdfs[title].y, name: run.name, mode: "lines", line: line(i) ?? { color: css("accent"), width: 2 }, showlegend: false,
        customdata: run.cdfs[title].x.map((ms) => readableTime(ms * 1e6)), hovertemplate: `${several ? run.name + ": " : ""}%{y:.1f}% of requests within %{customdata}<extra></extra>` })),
      () => layout(`${title} (${unit})${wide ? ", log" : ""}`, "requests (%)", { xaxis: wide ? logTicks(least / scale, largest / scale) : { rangemode: "tozero" }, yaxis: { range: [0, 101] } }));
  });
}
function overTime() {
  const draw = (id, series, unit) => chart(id,
    () => runs.flatMap((run, i) => run.over_time.t ? series.map(([key, name, colour, dash]) => ({
      x: run.over_time.t, y: run.over_time[key], name: named(i, name), mode: "lines", hovertemplate: `%{y:,.1f} ${name} at %{x:.3f} s<extra></extra>`,
      showlegend: !several,
      line: several ? { color: runColour(i), dash, width: 1.8 } : { color: colour(), dash, width: 1.8 } })) : []),
    () => layout("simulated time (s)", unit));
  if (several) for (const [id, text] of [["rates", "solid: generated tokens; dotted: prompt tokens"], ["queues", "solid: running; dotted: waiting"]])
    document.getElementById(id).before(element("p", { class: "soft small" }, text));
  draw("rates", [["prompt", "prompt tokens", () => css("series-4"), "dot"], ["generated", "generated tokens", () => css("accent"), "solid"]], "tokens per second");
  draw("queues", [["running", "running", () => css("accent"), "solid"], ["waiting", "waiting", () => css("series-1"), "dot"]], "requests");
  draw("kv", [["kv", "KV blocks in use", () => css("series-2"), "solid"]], "KV blocks in use (%)");
  power();
}
function power() {
  // Components are stacked for one run; several runs are compared by their sums.
  if (!runs.some((run) => run.energy.t)) { document.getElementById("power").closest(".card").remove(); return; }
  const trace = (run, i, name, y, style) => ({ x: run.energy.t, y, name: named(i, name), mode: "lines", hovertemplate: `%{y:,.1f} W ${name} at %{x:.3f} s<extra></extra>`, ...style });
  chart("power",
    () => runs.flatMap((run, i) => {
      if (!run.energy.t) return [];
      const parts = Object.entries(run.energy.watts);
      if (several) return [trace(run, i, "in all", run.energy.t.map((_, at) => parts.reduce((sum, [, watts]) => sum + watts[at], 0)), { showlegend: false, line: { color: runColour(i), width: 1.8 } })];
      return parts.map(([name, watts], place) => trace(run, i, name, watts, { stackgroup: "watts", line: { color: css(`series-${place % 8}`), width: 1 } }));
    }),
    () => layout("simulated time (s)", "power (W)"));
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
      marker: { color: css(cause), line: { color: css("card"), width: 1 }, pattern: { shape: { imbalance: "/", dependency: ".", memory: "x", seqs: "+", engine: "\\", transfer: "-" }[cause] || "", fillmode: "overlay", fgcolor: css("card"), size: 6, solidity: 0.25 } },
    })).filter((trace) => trace.x.some((value) => value >= 0.005)),
    () => layout("share of the run, first arrival to last completion (%)", "", merged(bars(rows), { xaxis: { range: [0, 100] } })));
  const shown = causes.filter((cause) => rows.some((row) => row.instance.causes[row.stage.stage][cause]));
  document.getElementById("bubble-table").append(table(["ms", ...shown], rows.map((row) => [row.label, ...shown.map((cause) => number(row.instance.causes[row.stage.stage][cause] / 1e6, 3))]), "Bubbles by cause"));
}
function cohorts() {
  chart("cohorts",
    () => runs.flatMap((run, r) => run.instances.flatMap((instance) => {
      const of = instance.cohorts, name = named(r, instance.title), colour = several || run.instances.length > 1 ? runColour(r + run.instances.indexOf(instance)) : css("accent");
      if (!of.t) return [];
      if (of.steps) return [{ x: of.t, y: of.steps, name, showlegend: !several && run.instances.length > 1, mode: "markers", marker: { size: 4, color: colour, opacity: 0.6 }, hovertemplate: "%{y} decodes at %{x:.3f} s<extra></extra>" }];
      return [["least", "dot"], ["mean", "solid"], ["most", "dash"]].map(([key, dash]) => ({ x: of.t, y: of[key], name: `${name}, ${key}`, mode: "lines", line: { color: colour, dash, width: 1.6 }, hovertemplate: `${key} %{y} decodes at %{x:.3f} s<extra></extra>` }));
    })),
    () => layout("simulated time (s)", "decodes in a step"));
}
function memory() {
  const rows = stageRows(), parts = [...new Set(runs.flatMap((run) => run.instances.flatMap((one) => one.memory.flatMap((stage) => stage.map(([part]) => part)))))];
  const colours = { weights: "series-0", "KV cache": "series-2", stranded: "series-1", "not to be used": "idle" }, other = ["series-4", "series-3", "series-6", "series-5"];
  chart("memory",
    () => parts.map((part, i) => ({
      type: "bar", orientation: "h", name: part, y: rows.map((row) => row.label),
      x: rows.map((row) => (row.instance.memory[row.stage.stage].find(([name]) => name === part) || [0, 0])[1] / 2 ** 30),
      hovertemplate: `${part} %{x:.3f} GiB<extra>%{y}</extra>`,
      marker: { color: css(colours[part] || other[i % 4]), line: { color: css("card"), width: 1 }, pattern: { shape: part === "stranded" ? "/" : "", fillmode: "overlay", fgcolor: css("card"), size: 6, solidity: 0.3 } } })),
    () => layout("memory per NPU (GiB)", "", bars(rows)));
}
function inputs() {
  const place = document.getElementById("inputs");
  for (const run of runs) {
    if (several) place.append(element("p", {}, element("b", {}, run.name)));
    place.append(element("ul", {}, ...[...run.basis.map((text) => `rests on ${text}`), ...run.notes.map((text) => `note: ${text}`), ...run.rejections.map((text) => `rejected: ${text}`)].map((text) => element("li", {}, text))));
    place.append(element("details", {}, element("summary", {}, "all inputs, as resolved"), element("pre", { tabindex: 0 }, JSON.stringify(run.inputs, null, 2))));
  }
}
function pipeline() {
  const section = document.getElementById("pipeline"), run = runs[0];
  if (several || !run.gantt.length) return section.remove();
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
    legend.append(element("span", {}, element("i", { style: `background: var(--${cause})` }), cause));
  legend.append(element("span", {}, element("i", { style: "background: var(--prefill)" }), "busy, with prefill (upper edge)"));
  legend.after(saveButtons("pipeline", async () => gantt.svg()));
  redrawn.push(() => gantt.draw());
  show(0);
}
for (const part of [runLegend, verdicts, facts, pipeline, bubbles, latencies, overTime, cohorts, memory, inputs]) part();
ready();
