"use strict";
// What all pages share: colours, numbers, charts with their own buttons to save them, tables that sort, the theme's switch,
// printing. A page's own script comes after this one and ends with ready().
const page = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const SYMBOLS = ["circle", "square", "diamond", "cross", "triangle-up", "x", "star", "hexagon"];
const PRINT_WIDTH = 680, NARROW = 560;
const css = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
const number = (value, digits = 2) => value === null || value === undefined ? "–" : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const timeUnit = (ns) => Math.abs(ns) >= 1e9 ? [1e9, "s", 3] : Math.abs(ns) >= 1e6 ? [1e6, "ms", 2] : Math.abs(ns) >= 1e3 ? [1e3, "µs", 2] : [1, "ns", 0];
function readableTime(ns, digits) {
  if (ns === null || ns === undefined) return "–";
  const [scale, unit, usual] = timeUnit(ns);
  return (digits === undefined ? number(ns / scale, usual) : (ns / scale).toLocaleString("en", { maximumFractionDigits: digits })) + " " + unit;
}
// Ticks of a logarithmic axis at 1, 2 and 5 of each power of ten between two values.
function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const digit of [1, 2, 5]) if (digit * 10 ** power >= low * 0.99 && digit * 10 ** power <= high * 1.01) ticks.push(digit * 10 ** power);
  return { type: "log", tickvals: ticks, ticktext: ticks.map((value) => value.toLocaleString("en", { maximumSignificantDigits: 3 })) };
}
const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};
function download(name, url) {
  element("a", { href: url, download: name }).click();
}
const fileName = (id, kind) => `${document.title}-${id}`.replace(/[^\w.-]+/g, "-") + "." + kind;
const svgUrl = (text) => "data:image/svg+xml," + encodeURIComponent(text);

// "$accent" anywhere in a trace or layout is the theme's colour of that name.
function coloured(value) {
  if (typeof value === "string" && value[0] === "$") return css(value.slice(1));
  if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map(coloured);
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, of]) => [key, coloured(of)]));
  return value;
}
function merged(base, more) {
  for (const [key, value] of Object.entries(more))
    base[key] = value && typeof value === "object" && !Array.isArray(value) && base[key] ? merged({ ...base[key] }, value) : value;
  return base;
}
function layout(x, y, more = {}) {
  const axis = (title) => ({ title: { text: title, standoff: 8 }, gridcolor: css("grid"), zerolinecolor: css("line"), linecolor: css("line"), automargin: true });
  return merged({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("ink"), size: 13, family: "system-ui, 'DejaVu Sans', sans-serif" },
    height: 330, margin: { l: 60, r: 14, t: 10, b: 48 }, hovermode: "closest",
    hoverlabel: { bgcolor: css("card"), bordercolor: css("line"), font: { color: css("ink") } },
    legend: { orientation: "h", yref: "container", yanchor: "bottom", y: 0, x: 0, traceorder: "normal" },
    xaxis: axis(x), yaxis: { ...axis(y), rangemode: "tozero" },
  }, coloured(more));
}

const charts = [];
let waiting = 0;
// Draws a chart when it comes near the view, when the browser has time, or before printing; whichever is first.
function chart(id, traces, makeLayout) {
  const place = document.getElementById(id);
  if (!traces().some((trace) => trace.x.length)) {
    place.closest(".card").hidden = true;
    return;
  }
  const one = { id, place, drawn: false };
  one.figure = () => ({ data: coloured(traces()), layout: makeLayout() });
  one.draw = (width) => {
    const { data, layout } = one.figure();
    const more = width ? { width, autosize: false } : { autosize: true };
    Plotly.react(place, data, { ...layout, ...more }, { responsive: true, displaylogo: false, displayModeBar: false });
    if (!one.drawn) {
      one.drawn = true;
      waiting--;
      place.classList.add("drawn");
      place.on("plotly_click", (event) => place.dispatchEvent(new CustomEvent("choose", { detail: event.points[0].customdata })));
    }
    root.dataset.drawn = waiting ? "no" : "yes";
  };
  one.svg = async () => {
    const { data, layout } = one.figure();
    const box = { width: Math.max(place.clientWidth, 400), height: place.clientHeight || layout.height };
    return Plotly.toImage({ data, layout: { ...layout, ...box, paper_bgcolor: css("card") } }, { format: "svg", ...box });
  };
  charts.push(one);
  waiting++;
  new IntersectionObserver((seen, observer) => {
    if (!seen.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    if (!one.drawn) one.draw();
  }, { rootMargin: "400px" }).observe(place);
  place.tabIndex = 0;
  place.setAttribute("role", "img");
  place.addEventListener("keydown", (event) => moveByKey(place, event));
  place.after(saveButtons(id, one.svg));
}
function saveButtons(id, svg) {
  const button = (text, act) => {
    const made = element("button", { type: "button", "aria-label": `save ${id} as ${text}` }, text);
    made.addEventListener("click", act);
    return made;
  };
  return element("div", { class: "save" },
    button("SVG", async () => download(fileName(id, "svg"), await svg())),
    button("PNG", async () => download(fileName(id, "png"), await rasterised(await svg()))));
}
function rasterised(url) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => {
      const canvas = element("canvas", { width: image.width * 2, height: image.height * 2 }), g = canvas.getContext("2d");
      g.scale(2, 2);
      g.drawImage(image, 0, 0);
      done(canvas.toDataURL("image/png"));
    };
    image.onerror = failed;
    image.src = url;
  });
}
function moveByKey(place, event) {
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
}
function drawWhenIdle() {
  const next = charts.find((one) => !one.drawn);
  if (!next) return;
  next.draw();
  later(drawWhenIdle);
}
const later = (act) => window.requestIdleCallback ? requestIdleCallback(act, { timeout: 1500 }) : setTimeout(act, 50);

function table(head, rows, label = "table") {
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, element("table", {},
    element("thead", {}, element("tr", {}, ...head.map((cell) => element("th", { scope: "col" }, cell)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell, i) => element(i ? "td" : "th", i ? {} : { scope: "row" }, cell)))))));
}
// A click on a heading sorts by it: numbers by data-value, largest first, texts by themselves.
function sortable(of) {
  const heads = [...of.tHead.rows[0].cells], body = of.tBodies[0];
  const key = (row, column) => { const cell = row.cells[column]; return cell.dataset.value === undefined ? cell.textContent : cell.dataset.value === "" ? null : Number(cell.dataset.value); };
  const sort = (column) => {
    const rising = heads[column].getAttribute("aria-sort") === "descending";
    for (const head of heads) head.setAttribute("aria-sort", "none");
    heads[column].setAttribute("aria-sort", rising ? "ascending" : "descending");
    const order = (a, b) => {
      const x = key(a, column), y = key(b, column);
      if (x === null || y === null) return (x === null) - (y === null);
      return (rising ? 1 : -1) * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
    };
    body.append(...[...body.rows].sort(order));
  };
  heads.forEach((head, column) => {
    head.setAttribute("aria-sort", "none");
    head.tabIndex = 0;
    head.addEventListener("click", () => sort(column));
    head.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(column); } });
  });
}

const redrawn = [];
function setTheme(name) {
  root.dataset.theme = name;
  document.getElementById("theme").textContent = name === "dark" ? "switch to light" : "switch to dark";
}
function theme(name) {
  setTheme(name);
  for (const one of charts) if (one.drawn) one.draw();
  for (const draw of redrawn) draw();
}
const dark = window.matchMedia("(prefers-color-scheme: dark)");
setTheme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
document.getElementById("theme").addEventListener("click", () => theme(root.dataset.theme === "dark" ? "light" : "dark"));
let beforePrint = null;
window.addEventListener("beforeprint", () => {
  beforePrint = { theme: root.dataset.theme, shut: [...document.querySelectorAll("details:not([open])")] };
  for (const one of beforePrint.shut) one.open = true;
  setTheme("light");
  for (const one of charts) one.draw(PRINT_WIDTH);
  for (const draw of redrawn) draw(PRINT_WIDTH);
});
window.addEventListener("afterprint", () => {
  for (const one of beforePrint.shut) one.open = false;
  setTheme(beforePrint.theme);
  for (const one of charts) one.draw();
  for (const draw of redrawn) draw();
});

// The charts and tables that came as data with the page.
function shown(one) {
  const makeLayout = () => layout(one.x, one.y, one.layout);
  chart(one.id, () => one.traces, makeLayout);
}
function ready() {
  for (const one of page.charts || []) shown(one);
  for (const of of document.querySelectorAll("table.sorts")) sortable(of);
  root.dataset.drawn = waiting ? "no" : "yes";
  root.dataset.ready = "yes";
  later(drawWhenIdle);
}
