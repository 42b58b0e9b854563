"use strict";
// What the page does when it may: charts that can be touched, and a table that can be searched,
// sorted, paged and taken along as CSV. Values become text, never markup.
(() => {
  const find = (selector, within = document) => within.querySelector(selector);
  let told = JSON.parse(find("#data").textContent);
  document.documentElement.classList.add("scripted");

  const make = (name, attributes = {}, ...inside) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...inside);
    return made;
  };
  const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
  const say = (text) => { find("#said").textContent = text; };

  // What cannot be seen is written out, or it could turn what stands around it.
  const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/gu;
  const plain = (text) => text.replace(UNSEEN, (c) => {
    const code = c.codePointAt(0).toString(16);
    return code.length > 2 ? `\\u${code.padStart(4, "0")}` : `\\x${code.padStart(2, "0")}`;
  });

  const duration = (seconds) => {
    if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
    if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
    const whole = Math.round(seconds);
    if (whole < 60) return `${whole} s`;
    const minutes = Math.floor(whole / 60), two = (n) => String(n).padStart(2, "0");
    if (minutes < 60) return whole % 60 ? `${minutes} min ${two(whole % 60)} s` : `${minutes} min`;
    return minutes % 60 ? `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min` : `${minutes / 60} h`;
  };

  const copied = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = make("textarea", { class: "sr", "aria-hidden": "true" });
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    await copied(button.dataset.copy);
    button.focus();
    const before = button.textContent;
    button.textContent = "Copied";
    say("Copied");
    setTimeout(() => { button.textContent = before; }, 1500);
  });

  // ------------------------------------------------------------------------------------- charts

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const FONT = "12px system-ui, sans-serif";
  const drawn = [];

  const bands = (plot) => {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.font = `${12 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "top";
    let free = 0;
    for (const band of told.time.bands) {
      const from = plot.valToPos(band.since_s, "x", true), to = plot.valToPos(band.until_s, "x", true);
      const left = Math.max(from, bbox.left), right = Math.min(Math.max(to, from + 1), bbox.left + bbox.width);
      if (right <= left) continue;
      ctx.fillStyle = color("band");
      ctx.globalAlpha = 0.6;
      ctx.fillRect(left, bbox.top, right - left, bbox.height);
      ctx.globalAlpha = 1;
      ctx.fillStyle = color("soft");
      ctx.textAlign = "center";
      const middle = (left + right) / 2, wide = ctx.measureText(band.reason).width / 2;
      if (middle - wide < free) continue;
      ctx.fillText(band.reason, middle, bbox.top - 15 * ratio);
      free = middle + wide + 6 * ratio;
    }
    ctx.restore();
  };
  const marks = (plot) => {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.font = `${12 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "top";
    ctx.textAlign = "left";
    ctx.setLineDash([2 * ratio, 3 * ratio]);
    let free = 0;
    for (const mark of told.time.marks) {
      const x = Math.round(plot.valToPos(mark.at_s, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = color("edge");
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const wide = ctx.measureText(mark.label).width + 8 * ratio;
      // To the right of its line, or to the left where the picture ends; over lines, not under them.
      const from = x + wide > bbox.left + bbox.width ? x - wide : x;
      if (from < free) continue;
      ctx.setLineDash([]);
      ctx.lineJoin = "round";
      ctx.lineWidth = 4 * ratio;
      ctx.strokeStyle = color("ground");
      ctx.strokeText(mark.label, from + 4 * ratio, bbox.top + 3 * ratio);
      ctx.fillStyle = color("soft");
      ctx.fillText(mark.label, from + 4 * ratio, bbox.top + 3 * ratio);
      ctx.lineWidth = ratio;
      ctx.setLineDash([2 * ratio, 3 * ratio]);
      free = from + wide;
    }
    ctx.restore();
  };

  const number = (value) => value >= 10 || Number.isInteger(value)
    ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(2)));
  const STEPS = [.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];

  const half = () => told.time.width_s / 2;
  const lines = (chart) => [
    chart.series[0].values.map((_, bucket) => bucket * told.time.width_s + half()),
    ...chart.series.map((one) => one.values),
  ];

  // As wide for all pictures, so that moments stand below each other.
  const beside = () => {
    const most = told.charts.reduce((most, chart) => chart.series.reduce((most, one) =>
      one.values.reduce((most, value) => Math.max(most, value ?? 0), most), most), 0);
    return Math.max(52, 18 + 7 * number(Math.round(most)).length);
  };
  const draw = (figure) => {
    const which = figure.dataset.chart, chart = told.charts[which], place = find(".live", figure);
    place.replaceChildren();
    const width = Math.max(240, place.clientWidth);
    const grid = { stroke: color("hair"), width: 1 };
    const axis = { stroke: color("soft"), font: FONT, ticks: { show: false } };
    const plot = new uPlot({
      width, height: 200, padding: [18, 22, 0, 0], legend: { show: false },
      cursor: { y: false, points: { size: 6 }, drag: { x: true, y: false } },
      scales: { x: { time: false, range: (_, low, high) => low > half() ? [low, high] : [0, high + half()] }, y: { range: (_, low, high) => [0, Math.max(high * 1.05, 1e-9)] } },
      axes: [
        { ...axis, grid: { show: false }, incrs: STEPS, space: 70, size: 28, values: (_, all) => all.map((at) => at === 0 ? "0" : duration(at)) },
        { ...axis, grid, size: beside, space: 34, incrs: chart.whole ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6] : undefined, values: (_, all) => all.map(number) },
      ],
      series: [{}, ...chart.series.map((one) => ({
        label: one.name, stroke: color(one.tone), width: 1.75, points: { show: false },
        dash: one.tone === "limit" ? [5, 4] : undefined,
        fill: one.area ? `${color(one.tone)}1f` : undefined,
        paths: one.steps ? uPlot.paths.stepped({ align: 1 }) : undefined,
      }))],
      hooks: {
        drawClear: [bands], draw: [marks],
        setCursor: [(now) => {
          const at = now.cursor.idx, readout = find(".readout", place.closest("figure"));
          readout.textContent = at == null ? "" : [duration(at * told.time.width_s), told.time.moments[at],
            ...told.charts[which].series.map((one) => `${number(one.values[at] ?? 0)} ${one.name}`)].filter(Boolean).join(" · ");
        }],
      },
    }, lines(chart), place);
    return { which, place, plot, width };
  };
  const drawAll = () => {
    for (const one of drawn.splice(0)) one.plot.destroy();
    for (const figure of document.querySelectorAll("figure[data-chart]")) drawn.push(draw(figure));
  };
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  new ResizeObserver(() => {
    for (const one of drawn) {
      const width = Math.max(240, one.place.clientWidth);
      if (width !== one.width && one.place.clientWidth) one.plot.setSize({ width: one.width = width, height: 200 });
    }
  }).observe(find("main"));

  // What a page that follows a run needs of this.
  globalThis.syncshift = {
    make, count, duration, say,
    renew(next) {
      const same = next.charts.length === drawn.length && drawn.every((one) =>
        one.place.isConnected && next.charts[one.which].series.length === one.plot.series.length - 1);
      told = next;
      if (!same) return drawAll();
      // Whoever has zoomed in keeps what they look at.
      for (const one of drawn) one.plot.setData(lines(told.charts[one.which]), !(one.plot.scales.x.min > 0));
    },
  };

  // -------------------------------------------------------------------------------------- table

  const table = told.table;
  if (!table || !table.lines.length) return;

  const parse = (line) => {
    const cells = [];
    let cell = "", quoted = false;
    for (let at = 0; at < line.length; at++) {
      const c = line[at];
      if (quoted) {
        if (c !== '"') cell += c;
        else if (line[at + 1] === '"') { cell += c; at++; }
        else quoted = false;
      } else if (c === '"') quoted = true;
      else if (c === ",") { cells.push(cell); cell = ""; }
      else cell += c;
    }
    cells.push(cell);
    return cells;
  };
  const names = parse(table.header);
  const column = Object.fromEntries(table.columns.map((one) => [one.id, one]));
  const LEFT = "unprocessed";
  // A result file puts a quote before what a spreadsheet would take for a formula.
  const bare = (text) => /^'[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/u.test(text) ? text.slice(1) : text;
  const rows = table.lines.map((line, place) => {
    const cells = parse(line);
    const kind = cells[column.kind.at] || LEFT;
    return { place, line, cells, kind, tone: table.tones[kind] || "left", reason: cells[column.why.at], found: null };
  });
  const all = (rows, of) => {
    const counted = new Map();
    for (const row of rows) { const key = of(row); if (key) counted.set(key, (counted.get(key) || 0) + 1); }
    return counted;
  };

  const kinds = find("#kind"), classes = find("#class"), search = find("#search"), body = find("#body");
  const option = (value, text) => make("option", { value }, text);
  const bad = rows.filter((row) => row.tone === "bad").length;
  const counted = all(rows, (row) => row.kind);
  kinds.append(option("", `all (${rows.length.toLocaleString("en")})`));
  if (bad) kinds.append(option("bad", `${table.file ? "failed" : "problems"} (${bad.toLocaleString("en")})`));
  for (const [kind, n] of counted) kinds.append(option(`=${kind}`, `${kind} (${n.toLocaleString("en")})`));
  kinds.value = bad ? "bad" : counted.has(LEFT) ? `=${LEFT}` : "";
  const byClass = [...all(rows, (row) => row.reason)].sort((a, b) => b[1] - a[1]);
  classes.append(option("", "any"));
  for (const [name, n] of byClass) classes.append(option(name, `${plain(name)} (${n.toLocaleString("en")})`));
  if (!byClass.length) classes.closest("label").hidden = true;

  const PAGE = 100;
  let shown = rows, page = 0, sorted = { id: "row", down: false };
  const numeric = new Set(["number", "took"]);
  const value = (row, one) => {
    if (one.type === "took") return table.extras.took[row.place] ?? -1;
    const text = one.at == null ? "" : row.cells[one.at];
    return one.type === "number" ? (text === "" ? -1 : Number(text)) : `${one.id === "kind" ? row.kind : text}\u0000${one.also == null ? "" : row.cells[one.also]}`;
  };
  const choose = () => {
    const wanted = search.value.trim().toLowerCase();
    shown = rows.filter((row) =>
      (!kinds.value || (kinds.value === "bad" ? row.tone === "bad" : `=${row.kind}` === kinds.value)) &&
      (!classes.value || row.reason === classes.value) &&
      (!wanted || (row.found ??= row.line.toLowerCase()).includes(wanted)));
    const whole = isWhole();
    find("#download").textContent = whole ? `Download ${table.file.name}` : `Download ${count(shown.length, "row")} as CSV`;
    find("#download").disabled = !shown.length;
    const one = column[sorted.id], sign = sorted.down ? -1 : 1;
    shown = shown.map((row) => [value(row, one), row]).sort(([a, x], [b, y]) =>
      sign * (numeric.has(one.type) ? a - b : a.localeCompare(b, "en")) || x.place - y.place).map(([, row]) => row);
    page = 0;
    paint();
  };
  const isWhole = () => table.file && kinds.value === table.file.tone && !classes.value && !search.value.trim() && shown.length === table.file.rows;

  const text = (value, name) => {
    const clean = plain(value);
    if (clean.length <= 160) return make("bdi", name ? { class: name } : {}, clean);
    return make("details", {}, make("summary", {}, make("bdi", name ? { class: name } : {}, `${clean.slice(0, 120)}…`)), make("bdi", name ? { class: name } : {}, clean));
  };
  const cell = (row, one) => {
    const made = make("td", { role: "cell", "data-label": one.title, class: `is-${one.type}` });
    const first = one.at == null ? "" : row.cells[one.at], also = one.also == null ? "" : bare(row.cells[one.also]);
    if (one.type === "kind") made.append(make("span", { class: `tag ${row.tone}` }, plain(row.kind)));
    else if (one.type === "took") { const ms = table.extras.took[row.place]; if (ms) made.append(duration(ms / 1000)); }
    else if (one.type === "why") { if (first) made.append(make("b", {}, plain(first))); }
    else if (one.type === "id" || one.type === "change") {
      const line = make("div", {}, text(first, "id"));
      if (one.type === "id" && first) line.append(make("button", { type: "button", class: "quiet", "data-copy": first, "aria-label": `Copy sync ID ${plain(first).slice(0, 80)}` }, "Copy"));
      if (first) made.append(line);
    } else if (first) made.append(text(first));
    if (also) made.append(make("small", {}, ...(one.type === "change" ? ["→ "] : []), text(also, one.type === "id" || one.type === "change" ? "id" : "")));
    if (!made.hasChildNodes()) made.classList.add("bare");
    return made;
  };
  const entry = (list, name, value) => {
    if (value == null || value === "") return;
    list.append(make("dt", {}, make("bdi", {}, plain(name))), make("dd", {}, make("bdi", {}, plain(value))));
  };
  const details = (row) => {
    const list = make("dl");
    const extra = (name) => table.extras ? table.extras[name][row.place] : null;
    row.cells.forEach((cell, at) => entry(list, (names[at] ?? "").replace(/^syncshift_/, "") || "beyond the header", cell));
    entry(list, "before", extra("before"));
    entry(list, "ended", extra("ended"));
    entry(list, "request ID", extra("request"));
    return make("tr", { class: "more", role: "row" }, make("td", { colspan: table.columns.length + 1, role: "cell" }, list));
  };
  const line = (row) => {
    const number = row.cells[column.row.at];
    const button = make("button", { type: "button", class: "quiet", "aria-expanded": "false", "aria-label": `Details of row ${number}` }, "Details");
    const made = make("tr", { role: "row" }, ...table.columns.map((one) => cell(row, one)), make("td", { role: "cell", class: "do" }, button));
    let open = null;
    button.addEventListener("click", () => {
      if (open) open.remove(); else made.after(open = details(row));
      if (!open.isConnected) open = null;
      button.setAttribute("aria-expanded", String(Boolean(open)));
    });
    return made;
  };
  const paint = () => {
    const from = page * PAGE, to = Math.min(shown.length, from + PAGE);
    body.replaceChildren(...shown.slice(from, to).map(line));
    find("#shown").textContent = shown.length === rows.length ? `${count(rows.length, "row")}.` : `${shown.length.toLocaleString("en")} of ${count(rows.length, "row")} that ${rows.length === 1 ? "is" : "are"} listed here.`;
    find("#where").textContent = shown.length ? `${(from + 1).toLocaleString("en")} to ${to.toLocaleString("en")} of ${shown.length.toLocaleString("en")}` : "";
    find("#back").disabled = !page;
    find("#more").disabled = to >= shown.length;
    find(".pages").hidden = shown.length <= PAGE;
    for (const head of document.querySelectorAll("th[data-id]")) {
      const on = head.dataset.id === sorted.id;
      if (on) head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending"); else head.removeAttribute("aria-sort");
      find(".arrow", head).textContent = on ? (sorted.down ? " ↓" : " ↑") : "";
    }
  };
  for (const head of document.querySelectorAll("th[data-id]")) {
    const button = make("button", { type: "button" }, head.textContent, make("span", { class: "arrow", "aria-hidden": "true" }));
    button.addEventListener("click", () => {
      sorted = { id: head.dataset.id, down: sorted.id === head.dataset.id && !sorted.down };
      choose();
    });
    head.replaceChildren(button);
  }
  const turn = (by) => { page += by; paint(); find("#rows").scrollIntoView(); };
  find("#back").addEventListener("click", () => turn(-1));
  find("#more").addEventListener("click", () => turn(1));
  let soon = 0;
  search.addEventListener("input", () => { clearTimeout(soon); soon = setTimeout(choose, 120); });
  kinds.addEventListener("change", choose);
  classes.addEventListener("change", choose);
  find("form.controls").addEventListener("submit", (event) => event.preventDefault());
  find("#download").addEventListener("click", () => {
    // In the order of the input, whatever the table is sorted by; the lines are those of the files.
    const lines = [...shown].sort((a, b) => a.place - b.place).map((row) => row.line);
    const file = new Blob([[table.header, ...lines, ""].join("\n")], { type: "text/csv" });
    const link = make("a", { href: URL.createObjectURL(file), download: isWhole() ? table.file.name : `${told.run_id}-rows.csv` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say(`Downloaded ${count(lines.length, "row")}`);
  });
  choose();
})();
