/* The panel: the facts of what is selected. */
const facts = (() => {
  const body = dom.at("facts");
  const { heading, isolated, terms, bullets, links } = rows;

  const pair = (numbers, unit) =>
    numbers && numbers.some(Boolean)
      ? `${unit(numbers[0])} forward, ${unit(numbers[1])} backward`
      : numbers
        ? "0"
        : null;

  function sums(nodes) {
    const add = (key) => {
      const known = nodes.filter((n) => n[key]);
      if (!known.length) return null;
      return known.reduce(([a, b], n) => [a + n[key][0], b + n[key][1]], [0, 0]);
    };
    const kept = nodes.filter((n) => n.kept !== null && n.kept !== undefined);
    return {
      parameters: nodes.reduce((all, n) => all + (n.parameters ?? 0), 0),
      flops: add("flops"),
      bytes: add("bytes"),
      kept: kept.length ? kept.reduce((all, n) => all + n.kept, 0) : null,
    };
  }

  function costs(found) {
    return terms([
      ["parameters", say.count(found.parameters ?? 0)],
      ["FLOP", pair(found.flops, say.flops)],
      ["bytes moved", pair(found.bytes, say.bytes), "bytes"],
      [
        "memory kept",
        found.kept === null || found.kept === undefined ? null : say.bytes(found.kept),
        "kept",
      ],
    ]);
  }

  function facts(element) {
    const node = element.node;
    if (!node) {
      const last = element.kind === "cluster" ? null : element.nodes.at(-1);
      return terms([
        ["path", element.path],
        ["kind", element.type],
        ["nodes", say.count(element.nodes.length)],
        ["shape", last && say.shape(last.shape)],
        ["dtype", last?.dtype],
        ["spec line", spans(element.nodes), "span"],
      ]);
    }
    return terms([
      ["path", node.path],
      ["kind", node.kind],
      ["operation", `${node.op} ${node.target ?? ""}`.trim()],
      ["name", node.name],
      ["shape", say.shape(node.shape)],
      ["dtype", node.dtype],
      ["spec line", node.span, "span"],
    ]);
  }

  const spans = (nodes) =>
    [...new Set(nodes.map((n) => n.span).filter(Boolean))].slice(0, 3).join(", ");

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
    return dom.html(
      "div",
      { class: "weight-fact" },
      heading("Weight"),
      terms([
        ["now", weights.says(number), "weight"],
        ["written", number.words],
      ]),
      number.curve ? weights.large(number) : null,
    );
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
        return Object.entries(value)
          .map(([k, v]) => `${k} ${plain(v)}`)
          .join("; ");
      }
      return typeof value === "number" ? say.count(value) : String(value);
    };
    const shown = Object.entries(found).filter(
      ([, v]) => v !== null && !(typeof v === "object" && !Object.keys(v).length),
    );
    return [
      heading("From the spec"),
      terms(shown.map(([key, value]) => [key.replaceAll("_", " "), plain(value)])),
    ];
  }

  /** The lines of the box; its weight has a place of its own. */
  function said(element, leg) {
    const number = leg.weights[element.edge];
    return element.lines.filter((line) => !number || line !== `weight ${number.words}`);
  }

  function selected(element, shown, goTo) {
    const { leg } = shown;
    const into = shown.arrows.filter((a) => a.target === element);
    const out = shown.arrows.filter((a) => a.source === element);
    const shapes = (arrow) =>
      [...new Set(arrow.nodes.map((n) => say.shape(n.shape)).filter(Boolean))].join(" ");
    const did = history(element.nodes);
    body.replaceChildren(
      ...[
        dom.html(
          "p",
          { class: "kind", "data-role": element.role },
          dom.html("span", { class: "badge" }, look.LETTERS[element.role] ?? "?"),
          `${look.NAMES[element.role] ?? element.role}${element.faded ? ", left out" : ""}`,
        ),
        isolated("h2", { id: "selected" }, element.title || element.id),
        ...said(element, leg).map((line) => isolated("p", { class: "said" }, line)),
        element.why ? isolated("p", { class: "why" }, element.why) : null,
        element.taps.length || element.marks.length
          ? dom.html(
              "p",
              { class: "tags" },
              element.taps.map((t) => isolated("span", { class: "tag tap" }, t)),
              element.marks.map((m) => isolated("span", { class: "tag mark" }, m)),
            )
          : null,
        facts(element),
        weight(element, leg),
        heading("Cost"),
        costs(element.node ?? sums(element.nodes)),
        ...(did.length ? [heading("What passes did"), bullets(did, "did")] : []),
        ...(into.length
          ? [
              heading("Reads"),
              links(
                into.map((a) => [a.source, shapes(a)]),
                goTo,
              ),
            ]
          : []),
        ...(out.length
          ? [
              heading("Read by"),
              links(
                out.map((a) => [a.target, shapes(a)]),
                goTo,
              ),
            ]
          : []),
        ...(written(element, leg) ?? []),
      ].filter(Boolean),
    );
  }

  function arrow(made, goTo) {
    body.replaceChildren(
      ...[
        dom.html("p", { class: "kind", "data-role": made.role }, "arrow"),
        dom.html(
          "h2",
          { id: "selected" },
          isolated("bdi", {}, made.source.title),
          " → ",
          isolated("bdi", {}, made.target.title),
        ),
        ...made.nodes.slice(0, 20).map((n) =>
          terms([
            ["value", n.title],
            ["shape", say.shape(n.shape)],
            ["dtype", n.dtype],
          ]),
        ),
        heading("Ends"),
        links(
          [
            [made.source, "from"],
            [made.target, "to"],
          ],
          goTo,
        ),
      ].filter(Boolean),
    );
  }

  return { selected, arrow };
})();
