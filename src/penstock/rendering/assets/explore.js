// The page of a search: a point of a chart or a row of the table opens what is known of it, beside it.
const narrow = window.matchMedia("(max-width: 1100px)");
const beside = document.getElementById("detail"), below = document.getElementById("detail-below");
const rowsTable = document.getElementById("points").querySelector("table");

function causeBars(stages) {
  const box = element("div", { class: "bars" });
  for (const stage of stages) {
    const bar = element("div", { class: "bar" }, element("span", {}, stage.name));
    for (const [cause, share] of stage.parts) bar.append(element("i", { style: `width: ${share * 100}%; background: var(--${cause})`, title: `${cause} ${number(share * 100, 1)}%` }));
    box.append(bar);
  }
  const seen = [...new Set(stages.flatMap((stage) => stage.parts.map(([cause]) => cause)))];
  box.append(element("div", { class: "legend" }, ...seen.map((cause) => element("span", {}, element("i", { style: `background: var(--${cause})` }), cause))));
  return box;
}
function detail(point) {
  const config = JSON.stringify(point.config, null, 2);
  return [
    element("h2", {}, point.label), ...point.summary.map((text) => element("p", {}, text)),
    ...(point.stages.length ? [element("h3", {}, "where the stages' time goes"), causeBars(point.stages)] : []),
    ...(point.trials.length ? [element("h3", {}, "every run of it"), table(point.trial_head, point.trials, "Runs")] : []),
    element("h3", {}, "to run it"), element("pre", { tabindex: 0 }, point.command),
    element("p", {}, element("a", { download: point.key + ".json", href: "data:application/json," + encodeURIComponent(config) }, "save its cluster config")),
    ...(point.basis.length ? [element("h3", {}, "what it rests on"), ...point.basis.map((text) => element("p", { class: "soft small" }, text))] : []),
    element("details", {}, element("summary", {}, "the config"), element("pre", { tabindex: 0 }, config)),
  ];
}
function show(key, row) {
  const point = page.points[key];
  for (const old of document.querySelectorAll(".detail-row")) old.remove();
  for (const old of document.querySelectorAll(".chosen")) old.classList.remove("chosen");
  const own = rowsTable.querySelector(`[data-point="${key}"]`);
  if (own) own.classList.add("chosen");
  below.hidden = true;
  if (!narrow.matches) beside.replaceChildren(...detail(point));
  else if (row) {
    row.after(element("tr", { class: "detail-row" }, element("td", { colspan: row.cells.length, class: "left detail", style: "white-space: normal" }, ...detail(point))));
  } else {
    below.hidden = false;
    below.replaceChildren(...detail(point));
  }
  history.replaceState(null, "", "#" + key);
}
for (const row of rowsTable.querySelectorAll("[data-point]")) {
  const cell = row.cells[0], open = element("button", { type: "button", class: "link" }, cell.textContent);
  open.addEventListener("click", () => show(row.dataset.point, row));
  cell.replaceChildren(open);
}
for (const id of ["scatter", "parallel"])
  document.getElementById(id)?.addEventListener("choose", (event) => { if (event.detail) show(event.detail); });
const filter = document.getElementById("filter"), count = document.getElementById("count");
function filtered() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let left = 0;
  for (const row of rowsTable.querySelectorAll("[data-point]")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    left += !row.hidden;
  }
  count.textContent = `${left} of ${Object.keys(page.points).length} deployments`;
}
filter.addEventListener("input", filtered);
filtered();
ready();
const wanted = location.hash.slice(1);
if (page.points[wanted]) show(wanted);
else if (page.best) show(page.best);
