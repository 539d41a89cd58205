/* Shapes beside arrows: of those in use, and of all that are in sight once one is near. */
const labels = (() => {
  const TALL = 14;

  /** On the longest stretch between two bends, at its middle. */
  function spot(points, wide) {
    let best = null;
    for (let i = 1; i < points.length; i += 1) {
      const [a, b] = [points[i - 1], points[i]];
      const length = Math.hypot(b.x - a.x, b.y - a.y) * (a.x === b.x ? 1 : 0.6);
      if (!best || length > best.length) best = { a, b, length };
    }
    const { a, b } = best;
    const y = Math.min(a.y + 80 * Math.sign(b.y - a.y), (a.y + b.y) / 2);
    const middle = Math.abs(b.y - a.y) > 240 ? y : (a.y + b.y) / 2;
    return { x: (a.x + b.x) / 2 - wide / 2, y: middle - TALL / 2 };
  }

  const meets = (a, b) =>
    a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;

  function text(arrow) {
    const shapes = [...new Set(arrow.nodes.map((n) => say.shape(n.shape)).filter((s) => s && s !== "scalar"))];
    return shapes.length > 2 ? `${shapes.length} shapes` : shapes.join(" ");
  }

  /** Puts labels where they hide neither each other nor a box; `first` come first. */
  function show(drawn, first, all) {
    const taken = [];
    const solid = [...drawn.byId.values()].filter((d) => !d.group.classList.contains("frame")).map((d) => d.place);
    const made = [];
    const put = (id, certain) => {
      const { arrow, points } = drawn.arrows.get(id) ?? {};
      const words = arrow && text(arrow);
      if (!words) return;
      const width = dom.width(words, look.FONTS.chip) + 8;
      const place = { ...spot(points, width), width, height: TALL };
      if (taken.some((t) => meets(t, place))) return;
      if (!certain && solid.some((s) => meets(s, place))) return;
      taken.push(place);
      const { x, y } = place;
      made.push(dom.svg("g", { class: "label", "data-of": id },
        dom.svg("rect", { x, y, width, height: TALL, rx: 3 }),
        dom.svg("text", { x: x + width / 2, y: y + 10.5, "text-anchor": "middle" }, words)));
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
