/* The panel: what a leg costs, where nothing is selected; and what a step did. */
const overview = (() => {
  const body = dom.at("facts");
  const about = dom.at("step-facts");
  const { heading, isolated, bullets, table } = rows;
  const COLUMNS = ["flops_forward", "flops_backward"];
  const MEMORY = {
    trained: "trained parameters",
    frozen: "frozen parameters",
    packed: "packed for the CPU",
    buffers: "buffers",
    batch: "batch",
    gradients: "gradients",
    kept: "kept for the backward",
    outputs: "outputs",
    temporary: "temporary",
  };

  const row = (name, s, whole) => [
    name,
    ...COLUMNS.map((c) => say.flops(s[c])),
    say.share(s.flops_forward + s.flops_backward, whole.flops_forward + whole.flops_backward),
  ];

  function leg(shown, scene) {
    const { name, cost } = shown.leg;
    const parts = [
      isolated("h2", {}, scene.name),
      isolated("p", { class: "said" }, name ? `stage ${name}` : "one training step"),
    ];
    if (cost.unknown !== undefined)
      parts.push(heading("Cost"), isolated("p", { class: "why" }, cost.unknown));
    else parts.push(...costs(cost));
    const made = Object.entries(scene.versions).map((made) => made.join(" "));
    parts.push(dom.html("p", { class: "foot" }, made.join(" · ")));
    body.replaceChildren(...parts.filter(Boolean));
  }

  function costs(cost) {
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
      table(
        ["part", "forward", "backward", "share"],
        [
          ...owners.map(([name, s]) => row(name, s, cost.total)),
          row("step", cost.total, cost.total),
        ],
      ),
      ...(before
        ? [
            heading("What passes save"),
            table(
              ["of a step", "before", "after", "change"],
              [
                saved("FLOP", say.flops, whole(before.total), whole(cost.total)),
                saved("bytes moved", say.bytes, moved(before.total), moved(cost.total)),
                saved("peak memory", say.bytes, before.peak_bytes, cost.peak_bytes),
              ],
            ),
          ]
        : []),
      heading("Memory at the peak"),
      table(
        ["what", "bytes", "share"],
        [
          ...held.map(([name, size]) => [
            MEMORY[name] ?? name,
            say.bytes(size),
            say.share(size, cost.peak_bytes),
          ]),
          ["peak", say.bytes(cost.peak_bytes), ""],
        ],
      ),
    ];
  }

  /** What the step did and what it declined; behind the last, what all other passes say. */
  function step(leg, index) {
    const found = leg.steps[index];
    const last = index === leg.steps.length - 1;
    const lines = (one) => [bullets(one.did, "did"), bullets(one.declined, "declined")];
    const shown = new Set(leg.steps.map((s) => s.title));
    const rest = leg.passes.filter(
      (p) => !shown.has(p.name) && (p.did.length || p.declined.length),
    );
    const more = last
      ? rest.map((p) =>
          dom.html(
            "details",
            {},
            isolated("summary", {}, p.did.length ? p.name : `${p.name}: declined`),
            lines(p),
          ),
        )
      : [];
    const quiet = index
      ? "Nothing is noted of this step."
      : "The graph as the spec says it, before optional passes.";
    about.replaceChildren(
      ...[
        dom.html("p", { class: "where" }, `Step ${index + 1} of ${leg.steps.length}`),
        isolated("h3", {}, found.title),
        ...lines(found),
        found.did.length || found.declined.length ? null : dom.html("p", { class: "said" }, quiet),
        more.length && leg.steps.length > 1
          ? dom.html("p", { class: "where" }, "Other passes")
          : null,
        ...more,
      ].filter(Boolean),
    );
  }

  return { leg, step };
})();
