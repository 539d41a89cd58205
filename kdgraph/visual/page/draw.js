/* A placed graph as SVG: frames below, then arrows, then boxes, then the labels of arrows. */
const draw = (() => {
  const text = (x, y, value, kind, more) => dom.svg("text", { x, y, class: kind, ...more }, value);

  function named(element) {
    const node = element.node;
    const what = [element.title || element.id, look.NAMES[element.role] ?? element.role];
    if (element.type) what.push(element.type);
    if (element.faded) what.push("left out");
    return {
      "data-id": element.id, "data-role": element.role, "data-kind": element.kind,
      "data-node": node ? node.name : null, "data-faded": element.faded ? "1" : null,
      tabindex: "0", role: "button", "aria-label": what.join(", "),
    };
  }

  const letter = (element, x, y) =>
    dom.svg("g", { class: "letter", transform: `translate(${x},${y})` },
      dom.svg("rect", { width: 16, height: 16, rx: 4 }),
      text(8, 12, look.LETTERS[element.role] ?? "?", "letter-text", { "text-anchor": "middle" }));

  const chevron = (x, y, open) =>
    dom.svg("g", { class: "chevron", "data-fold": "1", transform: `translate(${x},${y})` },
      dom.svg("rect", { x: -4, y: -4, width: 24, height: 24, rx: 4 }),
      dom.svg("path", { d: open ? "M4,6l4,4l4,-4" : "M6,4l4,4l-4,4" }));

  /** A curve over training, `w` by `h`; its zero is the lower edge unless it goes below. */
  function curve(values, w, h) {
    const { low, span } = range(values);
    return values
      .map((v, i) => `${i ? "L" : "M"}${((i * w) / (values.length - 1)).toFixed(1)},` +
        `${(h - ((v - low) / span) * h).toFixed(1)}`)
      .join("");
  }

  function range(values) {
    const low = Math.min(0, ...values);
    return { low, span: Math.max(...values) - low || 1 };
  }

  function weightRow(element, weight, y) {
    const row = dom.svg("g", { class: "weight", "data-weight": element.edge, transform: `translate(0,${y})` });
    row.append(text(element.look.side, 15, "", "weight-text"));
    if (weight.curve) {
      const x = element.look.width - element.look.side - 62;
      row.append(dom.svg("g", { class: "spark", transform: `translate(${x},3)` },
        dom.svg("path", { class: "axis", d: "M0,15H60" }),
        dom.svg("path", { class: "curve", d: curve(weight.curve, 60, 15) }),
        dom.svg("circle", { r: 3, class: "now" })));
    }
    return row;
  }

  function chip(made, x, y) {
    const at = dom.svg("g", { class: `chip ${made.kind}`, transform: `translate(${x + made.x},${y})` });
    const round = made.kind === "tap" ? look.CHIP / 2 : 3;
    at.append(dom.svg("rect", { width: made.width, height: look.CHIP, rx: round }));
    if (made.kind === "tap") at.append(dom.svg("circle", { cx: 9, cy: 8, r: 3 }));
    at.append(text(made.kind === "tap" ? 16 : 6, 11.5, made.shown, "chip-text"));
    return at;
  }

  function box(element, place, weight) {
    const made = look.of(element, weight);
    const { width: w, height: h } = place;
    const group = dom.svg("g", {
      class: "box", transform: `translate(${place.x},${place.y})`, ...named(element),
      "aria-expanded": made.folds ? "false" : null,
    });
    group.append(dom.svg("path", { class: "shape", d: look.outline(element.role, w, h) }));
    if (element.role === "student") {
      group.append(dom.svg("path", { class: "stripe", d: `M1.5,6V${h - 6}` }));
    }
    if (element.role === "total") {
      group.append(dom.svg("rect", { class: "inner", x: 3, y: 3, width: w - 6, height: h - 6, rx: 2 }));
    }
    const x = made.side;
    group.append(letter(element, x - 2, 8), text(x + 20, 21, made.title, "title"));
    if (made.folds) group.append(chevron(w - made.side - 14, 8, false));
    let y = 25;
    for (const line of made.lines) group.append(text(x, (y += look.LINE) - 3.5, line, "line"));
    if (made.weight) {
      group.append(weightRow(element, weight, y + 2));
      y += 24;
    }
    for (const one of made.chips) group.append(chip(one, x, y + 4 + one.row * (look.CHIP + 3)));
    return group;
  }

  function frame(element, place) {
    return dom.svg("g", {
      class: "frame", transform: `translate(${place.x},${place.y})`,
      ...named(element), "aria-expanded": "true",
    }, dom.svg("rect", { class: "shape", width: place.width, height: place.height, rx: 8 }));
  }

  /** The title of a frame, over the arrows that come in from above. */
  function head(element, place) {
    const { title, head: h } = look.frame(element);
    const w = place.width;
    return dom.svg("g", {
      class: "head", "data-head": element.id, "data-role": element.role,
      "data-faded": element.faded ? "1" : null, transform: `translate(${place.x},${place.y})`,
    },
    dom.svg("path", { class: "band", d: `M1,${h}V8a7,7 0 0 1 7,-7H${w - 8}a7,7 0 0 1 7,7V${h}Z` }),
    dom.svg("path", { class: "rule", d: `M1,${h}H${w - 1}` }),
    letter(element, 9, 6), text(32, 19, title, "frame-title"), chevron(w - 25, 6, true));
  }

  /** Right angles with small round corners. */
  function rounded(points) {
    let path = `M${points[0].x},${points[0].y}`;
    for (let i = 1; i < points.length - 1; i += 1) {
      const [a, b, c] = [points[i - 1], points[i], points[i + 1]];
      const before = Math.hypot(b.x - a.x, b.y - a.y);
      const after = Math.hypot(c.x - b.x, c.y - b.y);
      const r = Math.min(6, before / 2, after / 2);
      const from = { x: b.x + ((a.x - b.x) * r) / (before || 1), y: b.y + ((a.y - b.y) * r) / (before || 1) };
      const to = { x: b.x + ((c.x - b.x) * r) / (after || 1), y: b.y + ((c.y - b.y) * r) / (after || 1) };
      path += `L${from.x},${from.y}Q${b.x},${b.y} ${to.x},${to.y}`;
    }
    const last = points.at(-1);
    return `${path}L${last.x},${last.y}`;
  }

  function arrow(made, points) {
    const d = rounded(points);
    return dom.svg("g", {
      class: "arrow", "data-from": made.source.id, "data-to": made.target.id,
      "data-role": made.role, "data-faded": made.faded ? "1" : null,
    },
    dom.svg("path", { class: "hit", d }),
    dom.svg("path", { class: "line", d, "marker-end": `url(#tip-${made.faded ? "faded" : made.role})` }));
  }

  function markers() {
    const shape = () => dom.svg("path", { d: "M0,0L8,4L0,8Z" });
    return dom.svg("defs", {}, [...Object.keys(look.NAMES), "faded"].map((role) =>
      dom.svg("marker", {
        id: `tip-${role}`, class: "tip", "data-role": role, viewBox: "0 0 8 8", refX: 7.5, refY: 4,
        markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto",
      }, shape())));
  }

  /** Fills `world`; returns what was drawn, each with the rectangle it covers. */
  function paint(world, shown, placed) {
    const layers = ["frames", "arrows", "heads", "boxes", "labels"].map((id) => dom.svg("g", { class: id }));
    const [frames, arrows, heads, boxes, labels] = layers;
    const { leg } = shown;
    const drawn = { leg, items: [], byId: new Map(), arrows: new Map(), labels };
    const keep = (group, x0, y0, x1, y1) => drawn.items.push({ group, x0, y0, x1, y1, shown: true });
    // Parents before children, so that an inner title lies above what is around it.
    const walk = (element) => {
      const place = placed.boxes.get(element.id);
      const open = shown.folds.isOpen(element);
      const group = open ? frame(element, place) : box(element, place, leg.weights[element.edge]);
      (open ? frames : boxes).append(group);
      keep(group, place.x, place.y, place.x + place.width, place.y + place.height);
      drawn.byId.set(element.id, { element, group, place });
      if (!open) return;
      const title = head(element, place);
      heads.append(title);
      keep(title, place.x, place.y, place.x + place.width, place.y + look.HEAD);
      element.children.forEach(walk);
    };
    shown.roots.forEach(walk);
    for (const made of [...shown.arrows].sort((a, b) => b.faded - a.faded)) {
      const points = placed.lines.get(made.id);
      if (!points) continue;
      const group = arrow(made, points);
      arrows.append(group);
      const [xs, ys] = [points.map((p) => p.x), points.map((p) => p.y)];
      keep(group, Math.min(...xs) - 6, Math.min(...ys) - 6, Math.max(...xs) + 6, Math.max(...ys) + 6);
      drawn.arrows.set(made.id, { arrow: made, group, points });
    }
    world.replaceChildren(markers(), ...layers);
    return drawn;
  }

  return { paint, curve, range };
})();
