"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Filter: every word must occur; Escape clears, "/" goes to the box.
const box = document.getElementById("filter");
const loud = document.getElementById("loud");
if (box) {
  const counts = new Map(all("[data-count]").map((note) => [note, note.textContent]));
  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const part of all("[data-text]")) {
      const found = words.every((word) => part.dataset.text.includes(word));
      part.hidden = !found || (loud.checked && "quiet" in part.dataset);
    }
    for (const [note, usual] of counts) {
      const shown = all("tbody tr:not([hidden])", note.closest("section")).length;
      note.textContent = words.length || loud.checked ? `${shown} of ${note.dataset.count}` : usual;
    }
    rove();
  };
  box.addEventListener("input", filter);
  loud.addEventListener("change", filter);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== box) {
      event.preventDefault();
      box.focus();
    } else if (event.key === "Escape" && document.activeElement === box) {
      box.value = "";
      filter();
    }
  });
  if (box.value || loud.checked) queueMicrotask(filter); // the browser kept them over a reload
}

// Plots: pointing at a bar, or the arrow keys, tell its batch; a click or Enter goes to its row.
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
tip.setAttribute("role", "status");
document.body.append(tip);
const count = new Intl.NumberFormat("en").format;

const describe = (key, at) => {
  const series = data.series[key];
  const [id, when, verdict, rows] = data.batches[at];
  let value;
  if (Array.isArray(series.is)) value = series.is[at];
  else if (series.n[at] === null) value = "not looked at";
  else value = `${count(series.n[at])} of ${count(rows)} rows ${series.is}` + (rows ? ` (${((100 * series.n[at]) / rows).toFixed(2)}%)` : "");
  return [value, `${verdict} ${when}`, id];
};
const show = (plot, at) => {
  const lines = describe(plot.dataset.series, at).map((line, number) => {
    const part = document.createElement(number ? "span" : "b");
    part.textContent = line;
    return part;
  });
  tip.replaceChildren(...lines);
  tip.hidden = false;
  const area = plot.getBoundingClientRect();
  const bar = area.left + (at + 0.5) * plot.dataset.slot * area.width;
  const left = Math.max(8, Math.min(bar - tip.offsetWidth / 2, innerWidth - tip.offsetWidth - 8));
  const above = area.top - tip.offsetHeight - 6;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 60 ? above : area.bottom + 6}px`;
  plot.dataset.at = at;
};
const hide = () => { tip.hidden = true; };
const go = (plot) => {
  const row = document.getElementById(`b-${data.batches[plot.dataset.at][0]}`);
  if (!row) return;
  hide();
  row.hidden = false;
  location.hash = row.id;
};
const plots = data.series ? all("svg[data-series]") : [];
const rove = () => { // one stop for Tab in every section, arrow keys inside
  for (const section of new Set(plots.map((plot) => plot.closest("section")))) {
    const inside = all("svg[data-series]", section);
    const seen = inside.filter((plot) => !plot.closest("[hidden]"));
    for (const plot of inside) plot.setAttribute("tabindex", plot === seen[0] ? "0" : "-1");
  }
};
for (const plot of plots) {
  const at = (event) => {
    const area = plot.getBoundingClientRect();
    const bar = Math.floor((event.clientX - area.left) / area.width / plot.dataset.slot);
    return Math.max(0, Math.min(data.batches.length - 1, bar));
  };
  plot.addEventListener("pointermove", (event) => show(plot, at(event)));
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("focus", () => { if (plot.matches(":focus-visible")) show(plot, data.batches.length - 1); });
  plot.addEventListener("click", (event) => { show(plot, at(event)); go(plot); });
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const down = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step) show(plot, Math.max(0, Math.min(data.batches.length - 1, Number(plot.dataset.at ?? data.batches.length) + step)));
    else if (down) {
      const seen = all("svg[data-series]", plot.closest("section")).filter((each) => !each.closest("[hidden]"));
      const next = seen[seen.indexOf(plot) + down];
      if (next) next.focus();
    } else if (event.key === "Enter" && plot.dataset.at) go(plot);
    else return;
    event.preventDefault();
  });
}
rove();

// A number of one batch leads to its row.
for (const figure of all("data[data-row]")) {
  figure.addEventListener("click", () => { location.hash = figure.dataset.row; });
}
