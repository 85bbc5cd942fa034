// KV on the move, of a report of one run: what was under way, over which ways, who found what where, where requests were.
const kv = page.runs[0].kv, several_runs = page.runs.length > 1;
const ROLES = { whole: "served", prefill: "prefill", decode: "decode" };
const share = (value) => value === null ? "–" : number(100 * value, 1) + "%";

function kvUnderWay() {
  const of = kv.in_flight || { x: [], y: [] };
  chart("kv-under-way",
    () => [{ x: of.x, y: of.y, mode: "lines", fill: "tozeroy", showlegend: false, line: { color: css("kv_transfer"), width: 1.8, shape: "hv" }, hovertemplate: "%{y:.4f} GiB at %{x:.3f} s<extra></extra>" }],
    () => layout("simulated time (s)", "KV under way (GiB)"));
}
function kvHits() {
  const tiers = [["gpu", "on the GPU", "series-0", ""], ["tier", "in host memory", "series-2", "/"]];
  const rows = (kv.hits || []).filter((one) => one.gpu || one.tier);
  chart("kv-hits",
    () => tiers.map(([key, name, colour, shape]) => {
      const known = rows.filter((one) => one[key] !== null);
      return { type: "bar", orientation: "h", name, y: known.map((one) => `instance ${one.instance}`), x: known.map((one) => 100 * one[key]),
        hovertemplate: `%{x:.1f}% of prompt tokens ${name}<extra>%{y}</extra>`, marker: { color: css(colour), pattern: { shape, fillmode: "overlay", fgcolor: css("card"), size: 6, solidity: 0.25 } } };
    }).filter((trace) => trace.x.length),
    () => layout("prompt tokens found (%)", "", { height: 150 + 60 * rows.length, xaxis: { range: [0, 100] }, yaxis: { type: "category", autorange: "reversed", rangemode: "normal" } }));
}
function kvTables() {
  const ways = kv.ways || [], tiers = (kv.hits || []).filter((one) => one.stores || one.loads || one.tier !== null);
  document.getElementById("kv-ways-card").hidden = !ways.length;
  document.getElementById("kv-ways").append(table(
    ["from, to", "stage", "transfers", "GiB", "wait for the links, mean ms", "on the way (% of the run)"],
    ways.map((one) => [`instance ${one.source} to ${one.target}`, one.stage, number(one.transfers, 0), number(one.gib, 3), number(one.waited_ms, 3), number(100 * one.busy, 1)]), "Ways of KV"));
  document.getElementById("kv-tier-card").hidden = !tiers.length;
  document.getElementById("kv-tier").append(table(
    ["", "found on the GPU", "found in host memory", "copies out", "copies back", "steps held back, ms"],
    tiers.map((one) => [`instance ${one.instance}`, share(one.gpu), share(one.tier), number(one.stores, 0), number(one.loads, 0), number(one.stall_ms, 3)]), "KV in host memory"));
}
// A line per request: thin while it waits at an instance, thick while that works on it, in the instance's colour.
function kvLives() {
  const lives = kv.lives || [], groups = new Map();
  const add = (key, name, style, row) => { if (!groups.has(key)) groups.set(key, { name, style, rows: [] }); groups.get(key).rows.push(row); };
  lives.forEach((life, place) => {
    for (const [instance, role, arrived, first, end] of life.legs) {
      const told = `request ${life.request}, instance ${instance} (${ROLES[role]})`;
      add("wait", "waits there", { color: "$soft", width: 0.25 }, [place, arrived, first, `${told}: waits ${readableTime((first - arrived) * 1e6)}`]);
      add(`${instance} ${role}`, `${ROLES[role]} at instance ${instance}`, { color: `$series-${instance % 8}`, width: 0.8 }, [place, first, end, `${told}: ${readableTime((end - first) * 1e6)}`]);
    }
  });
  const keys = [...groups.keys()].sort((a, b) => (a === "wait") - (b === "wait") || a.localeCompare(b, "en", { numeric: true }));
  const latest = Math.max(0, ...lives.flatMap((life) => life.legs.map((leg) => leg[4]))), [scale, unit] = latest >= 1000 ? [1000, "s"] : [1, "ms"];
  chart("kv-lives",
    () => keys.map((key) => groups.get(key)).map(({ name, style, rows }) => ({
      type: "bar", orientation: "h", name, width: style.width, y: rows.map((row) => row[0]), base: rows.map((row) => row[1] / scale), x: rows.map((row) => (row[2] - row[1]) / scale),
      customdata: rows.map((row) => row[3]), hovertemplate: "%{customdata}<extra></extra>", marker: { color: css(style.color.slice(1)) } })),
    () => layout(`simulated time (${unit})`, "requests, in order of arrival", { height: Math.min(900, 180 + 10 * lives.length), barmode: "overlay", yaxis: { autorange: "reversed", showticklabels: false, rangemode: "normal" } }));
  const of = page.runs[0].summary.requests.finished;
  document.getElementById("kv-lives-note").textContent = lives.length < of ? `${number(lives.length, 0)} of ${number(of, 0)} requests, evenly spread over the run.` : "Every request that finished.";
}
if (several_runs || !Object.keys(kv).length) document.getElementById("kv-moves").remove();
else for (const part of [kvUnderWay, kvHits, kvTables, kvLives]) part();
