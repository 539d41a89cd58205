/* Shapes beside arrows: of those in use, and of all that are in sight once one is near. */
const labels = (() => {
  const TALL = 14;
  const GAP = 5; // between a label and its arrow

  /** Places for a label, the best first: beside long stretches between two bends. */
  function* spots(points, width) {
    const stretches = points.slice(1).map((b, i) => {
      const a = points[i];
      return { a, b, upright: a.x === b.x, length: Math.hypot(b.x - a.x, b.y - a.y) };
    });
    stretches.sort((one, other) => other.length - one.length);
    for (const { a, b, upright } of stretches.slice(0, 4)) {
      for (const share of [0.5, 0.3, 0.7, 0.15, 0.85]) {
        const [x, y] = [a.x + share * (b.x - a.x), a.y + share * (b.y - a.y)];
        const sides = upright
          ? [
              [x + GAP, y - TALL / 2],
              [x - GAP - width, y - TALL / 2],
            ]
          : [
              [x - width / 2, y - GAP / 2 - TALL],
              [x - width / 2, y + GAP / 2],
            ];
        for (const [left, top] of sides) yield { x: left, y: top, width, height: TALL };
      }
    }
  }

  const meets = (a, b) =>
    a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;

  function text(arrow) {
    const shapes = [
      ...new Set(arrow.nodes.map((n) => say.shape(n.shape)).filter((s) => s && s !== "scalar")),
    ];
    return shapes.length > 2 ? `${shapes.length} shapes` : shapes.join(" ");
  }

  /** Puts labels where they hide neither each other nor a box; `first` come first. */
  function show(drawn, first, all) {
    const taken = [];
    const solid = [...drawn.byId.values()]
      .filter(({ group }) => group.classList.contains("box") && group.style.display !== "none")
      .map(({ place }) => place);
    const made = [];
    const put = (id, certain) => {
      const { arrow, points } = drawn.arrows.get(id) ?? {};
      const words = arrow && text(arrow);
      if (!words) return;
      const width = dom.width(words, look.FONTS.chip) + 8;
      const places = [...spots(points, width)];
      const clear = (place) => !taken.some((t) => meets(t, place));
      const free = (place) => clear(place) && !solid.some((s) => meets(s, place));
      const place = places.find(free) ?? (certain && places.find(clear));
      if (!place) return;
      taken.push(place);
      const { x, y } = place;
      made.push(
        dom.svg(
          "g",
          { class: "label", "data-of": id },
          dom.svg("rect", { x, y, width, height: TALL, rx: 3 }),
          dom.svg("text", { x: x + width / 2, y: y + 10.5, "text-anchor": "middle" }, words),
        ),
      );
    };
    for (const id of first) put(id, true);
    if (all) {
      for (const [id, { group }] of drawn.arrows) {
        if (group.style.display !== "none" && !first.has(id)) put(id, false);
      }
    }
    drawn.labels.replaceChildren(...made);
  }

  return { show };
})();
