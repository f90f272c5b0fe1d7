"use strict";
// Draws the report's curves from the numbers in #data, and lets the reader choose. Names come from users: they enter
// the page as text only, and Plotly, which reads some markup, gets them escaped.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const by = (id) => document.getElementById(id);
  const coarse = matchMedia("(pointer: coarse)").matches;
  const system = matchMedia("(prefers-color-scheme: dark)");
  // Okabe and Ito's colours; on a dark ground lighter ones of the same hues, and white instead of black.
  const COLOURS = {
    light: ["#0072B2", "#D98E00", "#000000", "#009E73", "#B8558F", "#D55E00", "#3A9BD9"],
    dark: ["#4DB1F0", "#F0B030", "#FFFFFF", "#2CC79B", "#E29AC4", "#FF8A3D", "#9BD4F5"],
  };
  const DASHES = ["solid", "dash", "dashdot", "dot", "longdash", "longdashdot"];
  const SVG_DASHES = ["", "6 3", "6 3 1 3", "2 2", "9 4", "9 3 2 3"];

  // ---- what the reader chose; kept while the browser's tab lives, so that a refreshed page looks the same
  const chosen = { hidden: [], references: data.references.filter((r) => r.shown).map((r) => r.name),
    bands: true, seeds: data.returns.reduce((n, p) => n + p.seeds.length, 0) <= 40, from: "", to: "", task: "", layers: false };
  const store = (area, key, value) => {
    try {
      if (value === undefined) return area().getItem(key);
      area().setItem(key, value);
    } catch { /* a page in a file may have no storage: then the choice lasts until it is closed */ }
    return null;
  };
  const session = () => sessionStorage;
  const forever = () => localStorage;
  try { Object.assign(chosen, JSON.parse(store(session, "steadyq-chosen") || "{}")); } catch { /* not ours */ }

  const theme = () => root.dataset.theme || (system.matches ? "dark" : "light");
  const escape = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const colour = (number) => COLOURS[theme()][number % 7];
  const rgba = (hex, alpha) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",")},${alpha})`;
  const grey = (number) => (theme() === "dark" ? ["#9AA0A8", "#70767E", "#C0C5CC"] : ["#70757C", "#9A9FA6", "#505459"])[number % 3];
  const number = (value) => value === null || value === undefined ? "none"
    : Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(2)
    : value.toLocaleString("en", { maximumSignificantDigits: 4 });

  const HOVER = "%{text}, frame %{x:,d}<extra></extra>"; // a text is put in as it is: a name with %{x} stays one

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // ---- panels
  const panels = [];

  function band(line, fill) {
    const x = data.frames[line.x];
    return { x: [...x, ...[...x].reverse()], y: [...line.high, ...[...line.low].reverse()], mode: "lines", fill: "toself",
      fillcolor: fill, line: { width: 0 }, hoverinfo: "skip", showlegend: false };
  }

  function curve(line, name, style) {
    const between = (i) => line.low.length && line.low[i] !== null ? ` (${number(line.low[i])} to ${number(line.high[i])})` : "";
    return { x: data.frames[line.x], y: line.y, mode: line.y.length > 1 ? "lines" : "markers", line: style, marker: { color: style.color },
      text: line.y.map((value, i) => `${escape(name)}<br><b>${number(value)}</b>${between(i)}<br>${escape(line.seeds)}`),
      hovertemplate: HOVER, showlegend: false };
  }

  function traces(panel) {
    const found = [];
    const visible = (line) => !chosen.hidden.includes(data.methods[line.method].name);
    panel.references.forEach((line) => {
      const place = data.references.findIndex((r) => r.name === line.name);
      if (!chosen.references.includes(line.name)) return;
      if (chosen.bands) found.push(band(line, rgba(grey(place), 0.15)));
      found.push(curve(line, line.name, { color: grey(place), width: 1.5, dash: DASHES[place % 6] }));
    });
    if (chosen.bands)
      for (const line of panel.lines.filter(visible)) if (line.low.length) found.push(band(line, rgba(colour(line.method), 0.16)));
    if (chosen.seeds)
      for (const line of panel.seeds.filter(visible))
        found.push({ x: data.frames[line.x], y: line.y, mode: "lines", line: { color: colour(line.method), width: 1 }, opacity: 0.45,
          text: line.y.map((value) => `${escape(data.methods[line.method].name)}<br><b>${number(value)}</b><br>seed ${escape(line.seed)}`),
          hovertemplate: HOVER, showlegend: false });
    for (const line of panel.lines.filter(visible))
      found.push(curve(line, data.methods[line.method].name,
        { color: colour(line.method), width: 2.5, dash: DASHES[line.method % 6] }));
    return found;
  }

  function layout(panel) {
    const style = getComputedStyle(root);
    const ink = style.getPropertyValue("--ink").trim();
    const lines = style.getPropertyValue("--line").trim();
    const ground = style.getPropertyValue("--card").trim();
    const values = panel.lines.flatMap((line) => line.y).filter((value) => value !== null);
    const log = panel.log && Math.min(...values) > 0 && Math.max(...values) > 20 * Math.min(...values);
    const axis = { color: ink, gridcolor: lines, zerolinecolor: lines, linecolor: lines, fixedrange: coarse, automargin: true };
    const x = { ...axis, title: { text: "environment frames", font: { size: 11 } }, rangemode: "tozero", showgrid: false,
      exponentformat: "SI" };
    if (chosen.from !== "" || chosen.to !== "") {
      const ends = panel.lines.concat(panel.seeds).map((line) => data.frames[line.x].at(-1));
      const from = Number(chosen.from) || 0;
      const to = Number(chosen.to) || Math.max(1, ...ends);
      if (from < to) Object.assign(x, { range: [from, to], autorange: false });
    }
    return { margin: { l: 48, r: 20, t: 8, b: 40 }, paper_bgcolor: ground, plot_bgcolor: ground,
      font: { color: ink, size: 12, family: "system-ui, sans-serif" }, xaxis: x,
      yaxis: { ...axis, type: log ? "log" : "linear", rangemode: panel.log ? "normal" : "tozero", exponentformat: "SI",
        title: { text: escape(panel.y), font: { size: 11 } } },
      hovermode: "closest", hoverdistance: 40, dragmode: coarse ? false : "zoom", showlegend: false,
      hoverlabel: { bgcolor: ground, font: { color: ink, size: 12 }, align: "left", namelength: 0 } };
  }

  async function draw(entry) {
    const config = { displayModeBar: false, responsive: true, doubleClick: "reset" };
    await Plotly.react(entry.plot, traces(entry.panel), layout(entry.panel), config);
    entry.plot.dataset.drawn = String(entry.plot.querySelectorAll(".scatterlayer .trace").length);
  }

  // One panel at a time, with pauses: the page stays usable while a hundred are drawn.
  let queue = [];
  let running = false;
  async function drawAll() {
    queue = panels.filter((entry) => entry.card.isConnected && !entry.card.closest("details:not([open])")); // seen only
    root.dataset.drawing = "yes";
    if (running) return;
    running = true;
    while (queue.length) {
      await draw(queue.shift());
      await new Promise((done) => setTimeout(done));
    }
    running = false;
    root.dataset.drawing = "no";
  }

  function addPanel(place, panel) {
    const plot = element("div", { class: "plot", role: "img", "aria-label": `${panel.title}: curves over environment frames; numbers are in the tables` });
    const larger = element("button", { type: "button", "aria-pressed": "false", "aria-label": `enlarge ${panel.title}` }, "\u2922");
    const head = element("header", {}, element("h3", {}, panel.title), larger);
    const card = element("figure", { class: "panel" }, head, plot);
    if (panel.about) head.after(element("p", { class: "faint" }, panel.about));
    if (panel.lines.length === 0) plot.before(element("p", { class: "faint" }, "Nothing to draw here."));
    for (const sentence of panel.notes) card.append(element("p", { class: "faint" }, sentence));
    larger.addEventListener("click", () => {
      const large = card.classList.toggle("large");
      larger.setAttribute("aria-pressed", String(large));
      Plotly.Plots.resize(plot);
    });
    place.append(card);
    panels.push({ panel, plot, card });
  }

  function showTask() {
    for (const entry of panels.filter((one) => one.diagnostic)) Plotly.purge(entry.plot);
    for (const place of ["measures", "layered"]) by(place).replaceChildren();
    for (let i = panels.length - 1; i >= 0; i--) if (panels[i].diagnostic) panels.splice(i, 1);
    const before = panels.length;
    for (const panel of data.diagnostics) if (panel.task === chosen.task) addPanel(by(panel.layer ? "layered" : "measures"), panel);
    for (const entry of panels.slice(before)) entry.diagnostic = true;
    by("layers").hidden = by("layered").childElementCount === 0;
    by("layers").firstElementChild.textContent = `${by("layered").childElementCount} more, of single layers`;
  }

  // ---- controls
  function changed() {
    store(session, "steadyq-chosen", JSON.stringify(chosen));
    drawAll();
  }

  function toggle(list, name) {
    const place = list.indexOf(name);
    if (place < 0) list.push(name); else list.splice(place, 1);
  }

  function swatch(stroke, dash) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    const line = document.createElementNS(space, "line");
    for (const [name, value] of [["width", 28], ["height", 10], ["aria-hidden", "true"]]) svg.setAttribute(name, value);
    for (const [name, value] of [["x1", 1], ["x2", 27], ["y1", 5], ["y2", 5], ["stroke", stroke], ["stroke-width", 3], ["stroke-dasharray", dash]])
      line.setAttribute(name, value);
    svg.append(line);
    return svg;
  }

  function chips(place, items, isOn, flip, look) {
    place.replaceChildren();
    items.forEach((item, i) => {
      const chip = element("button", { type: "button", class: "chip", "aria-pressed": String(isOn(item)) }, swatch(...look(i)), item.name);
      chip.addEventListener("click", () => {
        flip(item);
        chip.setAttribute("aria-pressed", String(isOn(item)));
        changed();
      });
      place.append(chip);
    });
  }

  function showControls() {
    chips(by("methods"), data.methods, (m) => !chosen.hidden.includes(m.name), (m) => toggle(chosen.hidden, m.name),
      (i) => [colour(i), SVG_DASHES[i % 6]]);
    chips(by("references"), data.references, (r) => chosen.references.includes(r.name), (r) => toggle(chosen.references, r.name),
      (i) => [grey(i), SVG_DASHES[i % 6]]);
    for (const name of ["bands", "seeds"]) by(name).setAttribute("aria-pressed", String(chosen[name]));
    by("theme").textContent = `Theme: ${root.dataset.theme || "as the system"}`;
  }

  for (const name of ["bands", "seeds"])
    by(name).addEventListener("click", () => {
      chosen[name] = !chosen[name];
      showControls();
      changed();
    });
  for (const name of ["from", "to"]) {
    by(name).value = chosen[name];
    by(name).addEventListener("change", () => {
      chosen[name] = by(name).value;
      changed();
    });
  }
  by("reset").addEventListener("click", () => {
    by("from").value = by("to").value = chosen.from = chosen.to = "";
    for (const entry of panels) Plotly.purge(entry.plot); // forgets zooms by hand
    changed();
  });

  root.dataset.theme = store(forever, "steadyq-theme") || "";
  by("theme").addEventListener("click", () => {
    const order = ["", "light", "dark"];
    root.dataset.theme = order[(order.indexOf(root.dataset.theme) + 1) % 3];
    store(forever, "steadyq-theme", root.dataset.theme);
    showControls();
    drawAll();
  });
  system.addEventListener("change", () => {
    showControls();
    drawAll();
  });

  const measured = [...new Set(data.diagnostics.map((panel) => panel.task))];
  if (!measured.includes(chosen.task)) chosen.task = measured[0] || "";
  for (const task of measured) by("task").append(element("option", { value: task }, task));
  by("task").value = chosen.task;
  by("task").addEventListener("change", () => {
    chosen.task = by("task").value;
    showTask();
    changed();
  });
  by("layers").open = chosen.layers;
  by("layers").addEventListener("toggle", () => {
    chosen.layers = by("layers").open;
    changed();
  });
  by("choosetask").hidden = measured.length === 0;
  by("nodiagnostics").hidden = measured.length > 0;

  for (const panel of data.returns) addPanel(by("returns"), panel);
  showTask();
  showControls();
  drawAll();

  // ---- a page that is served asks whether the runs have changed, and comes again if so
  if (root.dataset.watched)
    setInterval(async () => {
      try {
        const answer = await fetch("state", { cache: "no-store" });
        if (answer.ok && (await answer.text()) !== root.dataset.watched) location.reload();
      } catch { /* the server has stopped, or is busy: the page stays as it is */ }
    }, 3000);
})();
