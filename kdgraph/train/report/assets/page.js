"use strict";
/* Draws a report from the figures in the page. All names go in as text. */
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const report = read("figures");
  const root = document.documentElement;
  const page = document.getElementById("page");
  const choice = { run: 0, by: "epochs" };
  const asked = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : asked.matches);

  // told apart with any colour vision; the first of each pair is for light ground
  const HUES = [
    ["#c2620c", "#f0a45b"], ["#1f66c1", "#7fb0f7"], ["#0b7d6b", "#4fc3ad"], ["#8b45b5", "#c99bf0"],
    ["#a8871a", "#e3c75a"], ["#b3261e", "#f28b82"], ["#3f8fb8", "#8fd3f4"], ["#5c6470", "#b3bbc7"],
  ];
  const hue = (at) => HUES[at % HUES.length][isDark() ? 1 : 0];
  const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [4, 2]];
  const dash = (at) => DASHES[at % DASHES.length];

  function make(tag, attributes = {}, ...inside) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...inside);
    return element;
  }
  const words = (tag, text, kind = "") =>
    make(tag, { dir: "auto", ...(kind && { class: kind }) }, text ?? "");

  function number(value, digits = 4) {
    if (value === null || value === undefined) return "–";
    if (value === 0 || Number.isInteger(value)) return value.toLocaleString("en");
    const size = Math.abs(value);
    return size < 1e-3 || size >= 1e6 ? value.toExponential(2) : String(+value.toPrecision(digits));
  }

  /* ---- what runs are called and look like ---- */
  const KINDS = { distilled: 0, alone: 2 };
  const rank = (run) => ({ distilled: 1, alone: 2 })[run.name] ?? 0;
  const runs = [...report.runs].sort((a, b) => rank(a) - rank(b) || a.seed - b.seed);
  const seedsOf = (name) => runs.filter((run) => run.name === name).map((run) => run.seed);
  const called = (run) => {
    const name = run.name === "alone" ? "student alone" : run.name;
    return seedsOf(run.name).length > 1 ? `${name}, seed ${run.seed}` : name;
  };
  const others = [...new Set(runs.map((run) => run.name))].filter((name) => !(name in KINDS));
  const kindOf = (run) => KINDS[run.name] ?? [1, 3, 4, 5, 6, 7][others.indexOf(run.name) % 6];
  const styleOf = (run) => ({
    label: called(run), colour: () => hue(kindOf(run)), dash: dash(seedsOf(run.name).indexOf(run.seed)),
  });

  /* ---- curves ---- */
  /** Steps of a curve on the axis that is chosen; epochs between known ones are filled in. */
  function along(run, steps) {
    if (choice.by === "steps") return steps;
    const known = run.curves.epoch;
    if (!known) return steps;
    let at = 0;
    return steps.map((step) => {
      while (at < known.steps.length - 1 && known.steps[at + 1] <= step) at += 1;
      while (at > 0 && known.steps[at] > step) at -= 1;
      const [s0, e0] = known.steps[at] <= step ? [known.steps[at], known.values[at]] : [0, 0];
      if (s0 === step) return e0;
      const next = known.steps[at] <= step ? at + 1 : at;
      if (next >= known.steps.length) return e0;
      return e0 + ((step - s0) / (known.steps[next] - s0)) * (known.values[next] - e0);
    });
  }
  const curve = (run, name, style) => {
    const found = run.curves[name];
    if (!found || !found.steps.length) return null;
    return { ...style, x: along(run, found.steps), y: found.values };
  };
  /** The curves of a run whose names begin alike, each by the rest of its name. */
  const family = (run, start) =>
    Object.keys(run.curves).filter((name) => name.startsWith(start)).map((name) => name.slice(start.length));

  const charts = [];
  const measure = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const width = Math.floor(target.clientWidth);
      if (target.chart && width > 0 && width !== target.chart.width) target.chart.setSize({ width, height: 220 });
    }
  });

  function card(title, hint, ...inside) {
    return make("section", { class: "card" }, words("h3", title), words("div", hint, "soft"), ...inside);
  }

  /** A card with lines; null where there is nothing to draw. */
  function plot(title, hint, lines, { stepped = false, range = null, marks = [], sizes = false } = {}) {
    lines = lines.filter(Boolean);
    if (!lines.length) return null;
    const place = make("div", { class: "plot" });
    const values = lines.flatMap((line) => line.y).filter((value) => value !== null);
    const small = values.reduce((a, b) => (b > 0 ? Math.min(a, b) : a), Infinity);
    const large = values.reduce((a, b) => Math.max(a, b), 0);
    // what is exactly 0 has no place there: a gap says that an edge is off
    const log = sizes && values.every((value) => value >= 0) && large / small > 50;
    if (log) lines = lines.map((line) => ({ ...line, y: line.y.map((value) => value || null) }));
    const style = getComputedStyle(root);
    const colour = (name) => style.getPropertyValue(name).trim();
    const probe = make("span", { style: "color: var(--soft); background: var(--line)" });
    root.append(probe);
    const [ink, rule] = [getComputedStyle(probe).color, getComputedStyle(probe).backgroundColor];
    probe.remove();
    const axis = { stroke: ink, grid: { stroke: rule, width: 1 }, ticks: { stroke: rule, width: 1, size: 5 },
      font: `11px ${colour("--font")}` };
    const few = lines.every((line) => line.y.length < 60);
    const options = {
      width: 400, height: 220, padding: [10, 12, 0, 0], legend: { markers: { width: 0 } },
      cursor: { points: { size: 6 }, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: log ? { distr: 3 } : range ? { range } : {} },
      axes: [
        { ...axis, size: 34, values: (u, ticks) => ticks.map((t) => number(t)) },
        { ...axis, size: 58, values: (u, ticks) => ticks.map((t) => (t === null ? "" : number(t, 3))) },
      ],
      series: [
        { label: choice.by === "steps" ? "step" : "epoch", value: (u, v) => number(v) },
        ...lines.map((line) => ({
          label: line.label, stroke: line.colour(), dash: line.dash, width: 1.8, spanGaps: true,
          ...(stepped && { paths: uPlot.paths.stepped({ align: 1 }) }),
          points: { show: few && line.y.length < 30, size: 4, fill: line.colour() },
          value: (u, v) => (v === undefined ? "" : number(v)),
        })),
      ],
      hooks: { drawAxes: [(u) => divide(u, marks, ink)] },
    };
    const sorted = lines.map((line) => [line.x, line.y]);
    const data = sorted.length > 1 ? uPlot.join(sorted) : sorted[0];
    const chart = new uPlot(options, data, place);
    for (const [at, marker] of place.querySelectorAll(".u-legend .u-marker").entries())
      if (at) marker.style.background = swatch(lines[at - 1]);
      else marker.remove();
    place.chart = chart;
    charts.push(chart);
    measure.observe(place);
    return card(title, `${hint}${log ? `${hint ? "; " : ""}logarithmic` : ""}`, place);
  }

  /** A piece of a line for the legend. */
  function swatch({ colour, dash: [on, off] }) {
    return on ? `repeating-linear-gradient(90deg, ${colour()} 0 ${on}px, transparent ${on}px ${on + off}px)` : colour();
  }

  /** Lines where stages begin, with their names. */
  function divide(u, marks, ink) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = ink;
    ctx.font = `${10 * devicePixelRatio}px sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = "top";
    for (const { x, name } of marks) {
      const at = Math.round(u.valToPos(x, "x", true));
      if (at < bbox.left || at > bbox.left + bbox.width) continue;
      ctx.globalAlpha = 0.55;
      ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(at, bbox.top);
      ctx.lineTo(at, bbox.top + bbox.height);
      ctx.stroke();
      ctx.globalAlpha = 0.9;
      ctx.fillText(name.slice(0, 18), at + 4 * devicePixelRatio, bbox.top + 2 * devicePixelRatio);
    }
    ctx.restore();
  }
  const marksOf = (run) =>
    (run.stages ?? []).map(({ name, after_steps: at }) => ({ name, x: along(run, [at])[0] }));

  function table(head, rows, { text = [] } = {}) {
    const kind = (at) => (text.includes(at) ? { class: "text", dir: "auto" } : { dir: "auto" });
    return make("div", { class: "scroll" }, make("table", {},
      make("thead", {}, make("tr", {}, ...head.map((name, at) => make("th", { scope: "col", ...kind(at) }, name)))),
      make("tbody", {}, ...rows.map(({ cells, main }) => make("tr", main ? { class: "main" } : {},
        ...cells.map((cell, at) => make(at ? "td" : "th", at ? kind(at) : { scope: "row", ...kind(at) }, cell)))))));
  }
  const pressed = (text, on, act) => {
    const button = make("button", { type: "button", "aria-pressed": String(on), dir: "auto" }, text);
    button.addEventListener("click", act);
    return button;
  };
  const section = (title, hint, ...inside) =>
    make("section", {}, words("h2", title), ...(hint ? [words("p", hint, "soft")] : []), ...inside);
  const grid = (...cards) => make("div", { class: "grid" }, ...cards.filter(Boolean));

  /* ---- the parts of the page ---- */
  function top() {
    const left = make("div", {}, words("h1", report.name));
    if (report.description) left.append(words("p", report.description));
    left.append(words("p", report.data, "soft"));
    const states = make("div", { class: "row" });
    for (const run of runs) {
      const steps = run.steps === run.of_steps ? "" : `, ${number(run.steps)} of ${number(run.of_steps)} steps`;
      const badge = words("span", `${called(run)}: ${run.state}, ${number(run.epochs)} epochs${steps}`, "badge");
      badge.style.setProperty("--dot", hue(kindOf(run)));
      states.append(badge);
    }
    left.append(states);
    const theme = make("button", { type: "button", id: "theme" }, isDark() ? "Light" : "Dark");
    theme.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      draw();
    });
    const axes = ["epochs", "steps"].map((by) => pressed(`by ${by}`, choice.by === by, () => {
      choice.by = by;
      draw();
    }));
    return make("header", { class: "top" }, left, make("div", { class: "row tools" }, ...axes, theme));
  }

  function result() {
    const found = report.table;
    if (!found) return null;
    const seeds = found.rows.some((row) => row.seeds > 1);
    const shown = ({ mean, std }) => (mean === null ? "no number" // and so is the other
      : mean.toFixed(4) + (std === null ? "" : ` ± ${std.toFixed(4)}`));
    const rows = found.rows.map((row) => ({
      main: row.name === "distilled",
      cells: [row.name, ...found.metrics.map((name) => (row.figures[name] ? shown(row.figures[name]) : "–")),
        number(row.parameters, 7), row.latency === null ? "–" : row.latency.toFixed(2),
        row.steps ? number(row.steps) : "–", row.seconds.toFixed(0), ...(seeds ? [String(row.seeds)] : [])],
    }));
    const head = ["", ...found.metrics, "parameters", "ms", "steps", "seconds", ...(seeds ? ["seeds"] : [])];
    return section("Result", "", make("div", { class: "sides" },
      make("div", { class: "card" }, table(head, rows)),
      make("div", { class: "card" }, make("ul", {}, ...found.notes.map((note) => words("li", note))))));
  }

  function together() {
    const names = (start) => [...new Set(runs.flatMap((run) => family(run, start)))];
    const lines = (name) => runs.map((run) => curve(run, name, styleOf(run)));
    const cards = names("val/").map((name) => plot(name, "on the validation data", lines(`val/${name}`)));
    cards.push(plot("total loss", "weighted; mean of each epoch", lines("epoch/loss"), { sizes: true }));
    for (const name of names("agreement/"))
      cards.push(plot(`agreement with ${name}`, "share of the validation data given the same class", lines(`agreement/${name}`)));
    if (!cards.some(Boolean)) return section("Runs", "No epoch is done yet.");
    return section("Runs", "", grid(...cards));
  }

  function inside() {
    if (!runs.length) return null;
    const run = runs[Math.min(choice.run, runs.length - 1)];
    const tabs = make("div", { class: "row", role: "group", "aria-label": "Run" });
    for (const [at, other] of runs.entries())
      tabs.append(pressed(called(other), other === run, () => {
        choice.run = at;
        draw();
      }));
    const edges = [...new Set(["epoch/loss/", "loss/", "grad_norm/"].flatMap((start) => family(run, start)))];
    const look = (name, at) => ({ label: name, colour: () => hue(at), dash: dash(Math.floor(at / HUES.length)) });
    const each = (start) => edges.map((name, at) => curve(run, start + name, look(name, at)));
    const rest = (start) => family(run, start).map((name, at) => curve(run, start + name, look(name, at)));
    const rates = Object.keys(run.curves).filter((name) => name === "lr" || name.startsWith("lr/"));
    const own = report.edges.length && run.label_edges?.length ? ` of ${run.label_edges.join(", ")}` : "";
    const how = { marks: marksOf(run) };
    const sized = { ...how, sizes: true };
    const cards = [
      plot("edges, weighted", "each edge's part of the total, at logged steps", each("weighted/"), sized),
      plot("edges, as they are", "unweighted, at logged steps", each("loss/"), sized),
      plot("edges, mean of an epoch", "unweighted", each("epoch/loss/"), sized),
      plot("weights", "of the edges; those that a signal gives are not known", each("weight/"), how),
      plot("steered numbers", "schedules beside the weights", rest("steered/"), how),
      plot("learning rate", rates.length > 1 ? "of each group of parameters" : "", rates.map((name, at) => curve(run, name, look(name, at))), sized),
      plot("gradient norm", "of each edge, unweighted, on the student's parameters; sampled", each("grad_norm/"), sized),
      plot("gradient against the labels'", `cosine with the gradient${own}; sampled`, each("grad_cosine/"), { ...how, range: [-1.05, 1.05] }),
      plot("widths", "of layers that actions changed", rest("width/"), { ...how, stepped: true }),
    ];
    const found = section("Inside a run", "", tabs, grid(...cards), confusion(run), actions(run));
    if (run.notes?.length)
      found.append(make("div", { class: "card", style: "margin-top: 18px" }, words("h3", "What is not known"),
        make("ul", {}, ...run.notes.map((note) => words("li", note)))));
    return found;
  }

  function actions(run) {
    if (!run.actions?.length) return "";
    const rows = run.actions.map((act) => ({
      cells: [act.stage, act.place === "during" ? `after its epoch ${act.epoch}` : act.place, act.did.join("\n")],
    }));
    return make("div", { class: "card", style: "margin-top: 18px" }, words("h3", "What stages changed"),
      table(["stage", "when", "what"], rows, { text: [2] }));
  }

  function confusion(run) {
    const found = run.confusion;
    if (!found) return "";
    const shell = (hint, ...rest) =>
      make("div", { class: "card", style: "margin-top: 18px" }, words("h3", "confusion"), words("div", hint, "soft"), ...rest);
    if (found.declined) return shell(found.declined);
    const { classes, cells } = found;
    const rows = new Array(classes).fill(0);
    for (const [truth, , count] of cells) rows[truth] += count;
    const size = Math.max(1, Math.min(44, Math.floor(560 / classes)));
    const edge = classes <= 60 ? 34 : 18;
    const ratio = window.devicePixelRatio || 1;
    const side = edge + size * classes;
    const canvas = make("canvas", { width: side * ratio, height: side * ratio, role: "img",
      "aria-label": "Confusion of true and predicted classes", style: `width: ${side}px; height: ${side}px` });
    const ctx = canvas.getContext("2d");
    ctx.scale(ratio, ratio);
    const [ink, none, full] = isDark() ? ["#a3adbb", [35, 40, 49], [127, 176, 247]] : ["#5a6372", [242, 245, 249], [24, 78, 152]];
    const shade = (share) => `rgb(${none.map((from, at) => Math.round(from + (full[at] - from) * Math.sqrt(share))).join(" ")})`;
    ctx.fillStyle = shade(0);
    ctx.fillRect(edge, edge, size * classes, size * classes);
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    ctx.font = `${Math.min(12, Math.max(7, size * 0.42))}px sans-serif`;
    const gap = size > 12 ? 1 : 0;
    for (const [truth, guess, count] of cells) {
      const share = count / rows[truth];
      ctx.fillStyle = shade(share);
      ctx.fillRect(edge + guess * size, edge + truth * size, size - gap, size - gap);
      if (size < 22) continue;
      ctx.fillStyle = share > 0.25 ? (isDark() ? "#10141a" : "#ffffff") : ink;
      ctx.fillText(String(count), edge + (guess + 0.5) * size, edge + (truth + 0.5) * size, size - 4);
    }
    ctx.fillStyle = ink;
    ctx.font = "11px sans-serif";
    const every = Math.ceil(18 / size);
    for (let at = 0; at < classes; at += every) {
      ctx.fillText(String(at), edge + (at + 0.5) * size, edge - 9);
      ctx.fillText(String(at), edge - 11, edge + (at + 0.5) * size);
    }
    const says = words("p", "", "soft");
    const told = "Point at a cell.";
    says.textContent = told;
    const counts = new Map(cells.map(([truth, guess, count]) => [truth * classes + guess, count]));
    canvas.addEventListener("mousemove", (event) => {
      const box = canvas.getBoundingClientRect();
      const [guess, truth] = [event.clientX - box.left, event.clientY - box.top].map((v) => Math.floor(((v * side) / box.width - edge) / size));
      const inside = guess >= 0 && truth >= 0 && guess < classes && truth < classes;
      const count = counts.get(truth * classes + guess) ?? 0;
      says.textContent = inside ? `class ${truth} taken for ${guess}: ${number(count)} of ${number(rows[truth])}` : told;
    });
    const worst = cells.filter(([truth, guess]) => truth !== guess).sort((a, b) => b[2] - a[2]).slice(0, 10);
    const list = table(["true", "predicted", "count", "of its class"], worst.map(([truth, guess, count]) => ({
      cells: [String(truth), String(guess), number(count), `${((100 * count) / rows[truth]).toFixed(1)} %`],
    })));
    const all = rows.reduce((a, b) => a + b, 0);
    return shell(`${called(run)}, ${number(all)} places of the ${found.part === "test" ? "test" : "validation"} data; ` +
      "rows are true classes, columns predicted ones, shades shares of a row",
      make("div", { class: "confusion" }, make("div", { class: "scroll" }, canvas, says),
        make("div", {}, words("h3", worst.length ? "Most frequent mistakes" : "No mistakes"), worst.length ? list : "")));
  }

  const drawn = read("graph");
  function graph() {
    if (!drawn) return null;
    const frame = make("iframe", { title: "The distillation graph", sandbox: "allow-scripts allow-downloads" });
    frame.srcdoc = drawn.replace("<html ", `<html data-theme="${isDark() ? "dark" : "light"}" `);
    return section("Graph", "What each step computes. Boxes unfold; a click tells what is known of one.", frame);
  }

  function written() {
    const facts = (found) => table(["", ""], Object.entries(found).map(([name, value]) => ({ cells: [name, value] })));
    const edges = table(["edge", "is", "reads", "weight"], report.edges.map((edge) => ({
      cells: [edge.name, edge.is, edge.reads.join(", "), edge.weight],
    })), { text: [1, 2, 3] });
    return section("Spec and machine", "", make("div", { class: "two" },
      make("div", { class: "card" }, words("h3", "the spec, with everything resolved"), make("pre", { dir: "auto", tabindex: "0" }, report.spec ?? "not compiled yet")),
      make("div", { style: "display: grid; gap: 18px" },
        make("div", { class: "card" }, words("h3", "edges"), edges),
        make("div", { class: "card" }, words("h3", "versions"), facts(report.versions)),
        make("div", { class: "card" }, words("h3", "machine"), facts(report.machine)))));
  }

  const still = { graph: null, theme: null };
  /** The frame is kept while only curves are drawn again. */
  function keptGraph() {
    if (!still.graph || still.theme !== isDark()) [still.graph, still.theme] = [graph(), isDark()];
    return still.graph;
  }

  const shell = { top: make("div"), middle: make("div"), graph: make("div"), end: make("div") };
  function fill(place, ...parts) {
    place.replaceChildren(...parts.filter(Boolean));
  }
  function draw() {
    for (const chart of charts.splice(0)) chart.destroy();
    measure.disconnect();
    const at = [scrollX, scrollY];
    fill(shell.top, top(), result());
    fill(shell.middle, together(), inside());
    if (shell.graph.firstChild !== keptGraph() || !still.graph) fill(shell.graph, still.graph);
    if (!shell.end.firstChild) fill(shell.end, written());
    scrollTo(...at);
    root.dataset.charts = String(charts.length);
  }

  document.title = `${report.name}, training report`;
  choice.run = Math.max(0, runs.findIndex((run) => run.name === "distilled"));
  page.replaceChildren(...Object.values(shell));
  draw();
  asked.addEventListener("change", draw);
  root.dataset.ready = "1";
})();
