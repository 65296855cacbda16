"use strict";
// Everything that came from the store is put in as text: nothing here writes HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const make = (tag, text, attributes = {}) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const count = (number) => number.toLocaleString("en");

  // --- light and dark

  const themes = ["auto", "light", "dark"];
  const button = byId("theme");
  let theme = "auto";
  try { theme = localStorage.getItem("checkpointdb-theme") || "auto"; } catch { /* a file may have none */ }
  const setTheme = (chosen) => {
    theme = themes.includes(chosen) ? chosen : "auto";
    if (theme === "auto") document.documentElement.removeAttribute("data-theme");
    else document.documentElement.setAttribute("data-theme", theme);
    button.textContent = `Colours: ${theme}`;
    try { localStorage.setItem("checkpointdb-theme", theme); } catch { /* the same */ }
    drawAll();
  };
  button.hidden = false;
  button.addEventListener("click", () => setTheme(themes[(themes.indexOf(theme) + 1) % 3]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());

  // --- charts

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const charts = new Map();
  const axis = (more) => ({
    stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 },
    ticks: { stroke: colour("--line"), width: 1 }, ...more,
  });
  const line = (label, name, digits, unit) => ({
    label, stroke: colour(name), fill: colour(name) + "22", width: 2, points: { show: false },
    value: (_, value) => value == null ? "–" : unit === "$" ? `$${value.toFixed(2)}` : value.toFixed(digits) + unit,
  });
  const draw = (id, series, axes, values, scales = {}) => {
    const place = byId(id);
    if (!place) return;
    charts.get(id)?.destroy();
    place.replaceChildren();
    const width = Math.max(place.clientWidth, 240);
    charts.set(id, new uPlot(
      { width, height: 220, series, axes, scales: { x: { time: false }, ...scales }, cursor: { y: false } },
      values, place,
    ));
  };
  const seconds = (value) => {
    if (value >= 5400) return `${+(value / 3600).toFixed(1)} h`;
    if (value >= 90) return `${+(value / 60).toFixed(1)} min`;
    if (value >= 0.9995) return `${+value.toPrecision(3)} s`;
    return value >= 0.0009995 ? `${+(value * 1e3).toPrecision(3)} ms` : `${+(value * 1e6).toPrecision(3)} µs`;
  };
  const room = (_, labels) => 20 + 7.5 * Math.max(3, ...(labels ?? []).map((label) => label.length));
  const elapsed = () => axis({ values: (_, ticks) => ticks.map((tick) => tick ? seconds(tick) : "0") });
  const xSeries = (label) => ({ label, value: (_, value) => value == null ? "–" : seconds(value) });

  const drawRun = () => {
    const chooser = byId("run");
    if (!chooser) return;
    const run = data.runs[+chooser.value || 0];
    draw("throughput",
      [xSeries("time"), line("saved", "--made", 1, "/s"), line("failed", "--bad", 1, "/s")],
      [elapsed(), axis({ size: room, values: (_, ticks) => ticks.map((tick) => count(tick)) })],
      [run.at, run.made, run.failed]);
    if (run.cost) {
      draw("spent", [xSeries("time"), line("spent", "--mark", 2, "$")],
        [elapsed(), axis({ size: room, values: (_, ticks) => ticks.map((tick) => `$${+tick.toPrecision(3)}`) })],
        [run.at, run.cost]);
    }
    const spent = byId("spent-figure");
    if (spent) spent.hidden = !run.cost;
  };
  const drawTimes = () => {
    const { at, calls } = data.times;
    if (!at.length) return;
    draw("times",
      [{ label: "up to", value: (_, value) => value == null ? "–" : seconds(10 ** value) },
        { label: "calls", stroke: colour("--hit"), fill: colour("--hit"), paths: uPlot.paths.bars({ size: [0.9, 60] }),
          points: { show: false }, value: (_, value) => value == null ? "–" : count(value) }],
      [axis({ values: (_, ticks) => ticks.map((tick) => Number.isInteger(tick) ? seconds(10 ** tick) : "") }),
        axis({ size: room, values: (_, ticks) => ticks.map((tick) => count(tick)) })],
      [at, calls], { x: { time: false, range: (_, low, high) => [low - 0.3, high + 0.3] } });
  };
  const drawAll = () => { drawRun(); drawTimes(); };
  byId("run")?.addEventListener("change", drawRun);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; drawAll(); } });

  // --- records

  const PAGE = 25;
  const search = byId("search"), kind = byId("kind"), body = byId("rows"), said = byId("said");
  let found = [], first = 0;
  const whole = data.records.map((it) => {
    const text = `${it.id} ${it.key} ${it.step} ${it.input} ${it.result} ${it.whole_input} ${it.whole_result}`.toLowerCase();
    return text.includes('\\"') ? `${text} ${text.replaceAll('\\"', '"')}` : text; // in JSON, or as it is meant
  });
  const cut = data.records.filter((it) => it.cut).length;
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const look = () => {
    const text = search.value.toLowerCase();
    found = data.records.filter((it, n) =>
      (!text || whole[n].includes(text)) && (kind.value === "all" || (kind.value === "failed") === it.failed));
    first = 0;
    show(text);
  };
  const show = (text) => {
    body.replaceChildren(...found.slice(first, first + PAGE).flatMap(rowsOf));
    const last = Math.min(first + PAGE, found.length);
    byId("before").disabled = first === 0;
    byId("after").disabled = last >= found.length;
    byId("where").textContent = found.length ? `${count(first + 1)} to ${count(last)} of ${count(found.length)}` : "none";
    said.replaceChildren();
    if (text === undefined) return;
    const rest = data.total - data.records.length;
    said.append(`${count(found.length)} of the ${count(data.records.length)} records on this page match. `);
    if (rest > 0) said.append(`${count(rest)} others are not on it, and cannot be searched here. `);
    if (cut > 0) said.append(`${count(cut)} have long values, which are here, and searched, up to where they are cut. `);
    if (rest > 0 || cut > 0) {
      said.append("To search all: ");
      const words = text ? ` --search ${quoted(search.value)}` : "";
      const failed = kind.value === "all" ? "" : ` --where 'error is ${kind.value === "failed" ? "not " : ""}null'`;
      said.append(make("code", `ckpt head ${data.store}${words}${failed}`));
    }
  };
  const rowsOf = (it) => {
    const row = make("tr"), more = make("tr"), opener = make("button", String(it.id), { class: "open", type: "button", "aria-expanded": "false", "aria-label": `record ${it.id}: show all of it` });
    const cell = (name, text, style) => { const made = make("td", text, { "data-name": name, class: style }); row.append(made); return made; };
    cell("record", "", "number").append(opener);
    if (data.several) cell("step", it.step, "");
    cell("input", it.input, "value");
    cell("result", it.result, it.failed ? "value bad" : "value");
    cell("took", it.took, "number");
    if (data.money) cell("cost", it.cost, "number");
    more.hidden = true;
    opener.addEventListener("click", () => {
      if (more.hidden && !more.childElementCount) more.append(detail(it, row.childElementCount));
      more.hidden = !more.hidden;
      opener.setAttribute("aria-expanded", String(!more.hidden));
    });
    return [row, more];
  };
  const detail = (it, columns) => {
    const cell = make("td", undefined, { colspan: columns }), pair = make("div", undefined, { class: "pair" });
    for (const [name, text] of [["input", it.whole_input], [it.failed ? "error" : "result", it.whole_result]]) {
      const half = make("div");
      half.append(make("strong", name), make("pre", text));
      pair.append(half);
    }
    cell.append(make("div", `${it.about} · key ${it.key}`, { class: "soft" }), pair);
    return cell;
  };
  if (search) {
    let timer = 0;
    search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(look, 80); });
    kind.addEventListener("change", look);
    byId("before").addEventListener("click", () => { first -= PAGE; show(); });
    byId("after").addEventListener("click", () => { first += PAGE; show(); });
    found = data.records;
    show();
    for (const each of document.querySelectorAll(".controls[hidden]")) each.hidden = false;
  }
  for (const link of document.querySelectorAll("[data-search]")) {
    link.addEventListener("click", () => { search.value = link.dataset.search; look(); byId("records-title").scrollIntoView(); search.focus(); });
    link.hidden = false;
  }
  setTheme(theme);
})();
