/* The side panel: what is selected, else what the leg costs; and what the step did. */
const panel = (() => {
  const body = dom.at("facts");
  const about = dom.at("step-facts");
  const COLUMNS = ["flops_forward", "flops_backward"];
  const MEMORY = {
    trained: "trained parameters", frozen: "frozen parameters", packed: "packed for the CPU",
    buffers: "buffers", batch: "batch", gradients: "gradients", kept: "kept for the backward",
    outputs: "outputs", temporary: "temporary",
  };

  const heading = (text) => dom.html("h3", {}, text);
  const isolated = (tag, attributes, text) => dom.html(tag, { dir: "auto", ...attributes }, text);

  /** Terms and what they are; leaves out what is not there. */
  function terms(pairs) {
    const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
    if (!shown.length) return null;
    return dom.html("dl", {}, shown.map(([name, value, key]) => [
      dom.html("dt", {}, name),
      dom.html("dd", { dir: "auto", "data-fact": key ?? name }, value instanceof Node ? value : String(value)),
    ]));
  }

  const bullets = (texts, kind) =>
    texts.length ? dom.html("ul", { class: kind }, texts.map((t) => isolated("li", {}, t))) : null;

  /** A list whose rows lead to other parts of the graph. */
  function links(elements, goTo) {
    return dom.html("ul", { class: "links" }, elements.map(([element, note]) =>
      dom.html("li", {},
        dom.html("button", { type: "button", dir: "auto", onclick: () => goTo(element) }, called(element)),
        note ? dom.html("span", { class: "note" }, note) : null)));
  }

  const pair = (numbers, unit) =>
    numbers && numbers.some(Boolean) ? `${unit(numbers[0])} forward, ${unit(numbers[1])} backward` : numbers ? "0" : null;

  function sums(nodes) {
    const add = (key) => {
      const known = nodes.filter((n) => n[key]);
      if (!known.length) return null;
      return known.reduce(([a, b], n) => [a + n[key][0], b + n[key][1]], [0, 0]);
    };
    const kept = nodes.filter((n) => n.kept !== null && n.kept !== undefined);
    return {
      parameters: nodes.reduce((all, n) => all + (n.parameters ?? 0), 0),
      flops: add("flops"), bytes: add("bytes"),
      kept: kept.length ? kept.reduce((all, n) => all + n.kept, 0) : null,
    };
  }

  function costs(found) {
    return terms([
      ["parameters", say.count(found.parameters ?? 0)],
      ["FLOP", pair(found.flops, say.flops)],
      ["bytes moved", pair(found.bytes, say.bytes), "bytes"],
      ["memory kept", found.kept === null || found.kept === undefined ? null : say.bytes(found.kept), "kept"],
    ]);
  }

  function facts(element) {
    const node = element.node;
    if (!node) {
      const last = element.kind === "cluster" ? null : element.nodes.at(-1);
      return terms([
        ["path", element.path], ["kind", element.type],
        ["nodes", say.count(element.nodes.length)],
        ["shape", last && say.shape(last.shape)], ["dtype", last?.dtype],
        ["spec line", spans(element.nodes), "span"],
      ]);
    }
    return terms([
      ["path", node.path], ["kind", node.kind], ["operation", `${node.op} ${node.target ?? ""}`.trim()],
      ["name", node.name], ["shape", say.shape(node.shape)],
      ["dtype", node.dtype], ["spec line", node.span, "span"],
    ]);
  }

  const spans = (nodes) => [...new Set(nodes.map((n) => n.span).filter(Boolean))].slice(0, 3).join(", ");

  /** What passes did to the nodes, each line once. */
  function history(nodes) {
    const lines = nodes.flatMap((n) => (n.history ?? []).map((h) => `${h.pass}: ${h.what}`));
    const counted = new Map();
    for (const line of lines) counted.set(line, (counted.get(line) ?? 0) + 1);
    return [...counted].map(([line, times]) => (times > 1 ? `${line} (${times} nodes)` : line));
  }

  function weight(element, leg) {
    const number = leg.weights[element.edge];
    if (!number) return null;
    return dom.html("div", { class: "weight-fact" }, heading("Weight"),
      terms([["now", weights.says(number), "weight"], ["written", number.words]]),
      number.curve ? weights.large(number) : null);
  }

  function entry(element, leg) {
    const [, name] = element.id.split("cluster:");
    if (element.kind === "cluster") return leg.models[name];
    const titles = { loss: leg.losses, signal: leg.signals, adapter: leg.links };
    return titles[element.role]?.[element.edge ?? element.title];
  }

  /** What the spec says of a model, a link, a signal or a loss. */
  function written(element, leg) {
    const found = entry(element, leg);
    if (!found) return null;
    const plain = (value) => {
      if (Array.isArray(value)) return value.map(plain).join(", ");
      if (value && typeof value === "object") {
        return Object.entries(value).map(([k, v]) => `${k} ${plain(v)}`).join("; ");
      }
      return typeof value === "number" ? say.count(value) : String(value);
    };
    const shown = Object.entries(found).filter(([, v]) => v !== null && !(typeof v === "object" && !Object.keys(v).length));
    return [heading("From the spec"), terms(shown.map(([key, value]) => [key.replaceAll("_", " "), plain(value)]))];
  }

  /** The lines of the box; its weight has a place of its own. */
  function said(element, leg) {
    const number = leg.weights[element.edge];
    return element.lines.filter((line) => !number || line !== `weight ${number.words}`);
  }

  /** A node goes by its path: the last part of that says little. */
  const called = (element) => (element.kind === "node" && element.path) || element.title || element.id;

  function selected(element, shown, goTo) {
    const { leg } = shown;
    const into = shown.arrows.filter((a) => a.target === element);
    const out = shown.arrows.filter((a) => a.source === element);
    const shapes = (arrow) => [...new Set(arrow.nodes.map((n) => say.shape(n.shape)).filter(Boolean))].join(" ");
    const did = history(element.nodes);
    body.replaceChildren(...[
      dom.html("p", { class: "kind", "data-role": element.role },
        dom.html("span", { class: "badge" }, look.LETTERS[element.role] ?? "?"),
        `${look.NAMES[element.role] ?? element.role}${element.faded ? ", left out" : ""}`),
      isolated("h2", { id: "selected" }, element.title || element.id),
      ...said(element, leg).map((line) => isolated("p", { class: "said" }, line)),
      element.why ? isolated("p", { class: "why" }, element.why) : null,
      element.taps.length || element.marks.length ? dom.html("p", { class: "tags" },
        element.taps.map((t) => isolated("span", { class: "tag tap" }, t)),
        element.marks.map((m) => isolated("span", { class: "tag mark" }, m))) : null,
      facts(element),
      weight(element, leg),
      heading("Cost"), costs(element.node ?? sums(element.nodes)),
      ...(did.length ? [heading("What passes did"), bullets(did, "did")] : []),
      ...(into.length ? [heading("Reads"), links(into.map((a) => [a.source, shapes(a)]), goTo)] : []),
      ...(out.length ? [heading("Read by"), links(out.map((a) => [a.target, shapes(a)]), goTo)] : []),
      ...(written(element, leg) ?? []),
    ].filter(Boolean));
  }

  function arrow(made, goTo) {
    body.replaceChildren(...[
      dom.html("p", { class: "kind", "data-role": made.role }, "arrow"),
      dom.html("h2", { id: "selected" }, isolated("bdi", {}, made.source.title), " → ", isolated("bdi", {}, made.target.title)),
      ...made.nodes.slice(0, 20).map((n) => terms([["value", n.title], ["shape", say.shape(n.shape)], ["dtype", n.dtype]])),
      heading("Ends"), links([[made.source, "from"], [made.target, "to"]], goTo),
    ].filter(Boolean));
  }

  function table(heads, rows) {
    return dom.html("table", {},
      dom.html("thead", {}, dom.html("tr", {}, heads.map((h) => dom.html("th", { scope: "col" }, h)))),
      dom.html("tbody", {}, rows.map((cells) => dom.html("tr", {}, cells.map((c, i) =>
        dom.html(i ? "td" : "th", { dir: "auto", scope: i ? null : "row" }, c))))));
  }

  const row = (name, s, whole) => [
    name, ...COLUMNS.map((c) => say.flops(s[c])),
    say.share(s.flops_forward + s.flops_backward, whole.flops_forward + whole.flops_backward),
  ];

  function overview(shown, scene) {
    const { leg } = shown;
    const { cost } = leg;
    const parts = [isolated("h2", {}, scene.name), isolated("p", { class: "said" }, leg.name ? `stage ${leg.name}` : "one training step")];
    if (cost.unknown !== undefined) parts.push(heading("Cost"), isolated("p", { class: "why" }, cost.unknown));
    else parts.push(...overviewCosts(cost));
    const made = Object.entries(scene.versions).map(([name, version]) => `${name} ${version}`);
    parts.push(dom.html("p", { class: "foot" }, made.join(" · ")));
    body.replaceChildren(...parts.filter(Boolean));
  }

  function overviewCosts(cost) {
    const before = cost.before_passes;
    const whole = (s) => s.flops_forward + s.flops_backward;
    const moved = (s) => s.bytes_forward + s.bytes_backward;
    const owners = Object.entries(cost.owners).filter(([n, s]) => n !== "total" && whole(s));
    const held = Object.entries(cost.memory).filter(([, size]) => size);
    const change = (old, now) => {
      const percent = old ? Math.round((100 * (now - old)) / old) : 0;
      return `${percent > 0 ? "+" : percent < 0 ? "−" : ""}${Math.abs(percent)} %`;
    };
    const saved = (name, unit, old, now) => [name, unit(old), unit(now), change(old, now)];
    return [
      heading(`FLOP of a step${cost.batch ? `, batch of ${say.count(cost.batch)}` : ""}`),
      table(["part", "forward", "backward", "share"], [
        ...owners.map(([name, s]) => row(name, s, cost.total)), row("step", cost.total, cost.total),
      ]),
      ...(before ? [
        heading("What passes save"),
        table(["of a step", "before", "after", "change"], [
          saved("FLOP", say.flops, whole(before.total), whole(cost.total)),
          saved("bytes moved", say.bytes, moved(before.total), moved(cost.total)),
          saved("peak memory", say.bytes, before.peak_bytes, cost.peak_bytes),
        ]),
      ] : []),
      heading("Memory at the peak"),
      table(["what", "bytes", "share"], [
        ...held.map(([name, size]) => [MEMORY[name] ?? name, say.bytes(size), say.share(size, cost.peak_bytes)]),
        ["peak", say.bytes(cost.peak_bytes), ""],
      ]),
    ];
  }

  /** What the step did and what it declined; behind the last, what all other passes say. */
  function step(leg, index) {
    const found = leg.steps[index];
    const last = index === leg.steps.length - 1;
    const lines = (one) => [bullets(one.did, "did"), bullets(one.declined, "declined")];
    const shown = new Set(leg.steps.map((s) => s.title));
    const rest = leg.passes.filter((p) => !shown.has(p.name) && (p.did.length || p.declined.length));
    const more = last ? rest.map((p) => dom.html("details", {},
      isolated("summary", {}, p.did.length ? p.name : `${p.name}: declined`), lines(p))) : [];
    const quiet = index ? "Nothing is noted of this step." : "The graph as the spec says it, before optional passes.";
    about.replaceChildren(...[
      dom.html("p", { class: "where" }, `Step ${index + 1} of ${leg.steps.length}`),
      isolated("h3", {}, found.title),
      ...lines(found),
      found.did.length || found.declined.length ? null : dom.html("p", { class: "said" }, quiet),
      more.length && leg.steps.length > 1 ? dom.html("p", { class: "where" }, "Other passes") : null,
      ...more,
    ].filter(Boolean));
  }

  return { selected, arrow, overview, step };
})();
