/* A placed graph as SVG: frames below, then arrows, then boxes, then the labels of arrows. */
const draw = (() => {
  const text = (x, y, value, kind, more) => dom.svg("text", { x, y, class: kind, ...more }, value);

  function named(element) {
    const node = element.node;
    const what = [element.title || element.id, look.NAMES[element.role] ?? element.role];
    if (element.type) what.push(element.type);
    if (element.faded) what.push("left out");
    return {
      "data-id": element.id,
      "data-role": element.role,
      "data-kind": element.kind,
      "data-node": node ? node.name : null,
      "data-faded": element.faded ? "1" : null,
      tabindex: "0",
      role: "button",
      "aria-label": what.join(", "),
    };
  }

  const letter = (element, x, y) => [
    dom.svg("rect", { class: "letter", x, y, width: 16, height: 16, rx: 4 }),
    text(x + 8, y + 12, look.LETTERS[element.role] ?? "?", "letter-text", {
      "text-anchor": "middle",
    }),
  ];

  const chevron = (x, y, open) =>
    dom.svg(
      "g",
      { class: "chevron", "data-fold": open ? "open" : "shut" },
      dom.svg("rect", { x: x - 4, y: y - 4, width: 24, height: 24, rx: 4 }),
      dom.svg("path", { d: open ? `M${x + 4},${y + 6}l4,4l4,-4` : `M${x + 6},${y + 4}l4,4l-4,4` }),
    );

  function weightRow(element, weight, x, y, right) {
    const row = dom.svg("g", { class: "weight", "data-weight": element.edge });
    row.append(text(x, y + 15, "", "weight-text"));
    if (weight.curve) row.append(...curve.spark(weight.curve, right - 62, y + 3, 60, 15));
    return row;
  }

  function chip(made, left, y) {
    const x = left + made.x;
    const tap = made.kind === "tap";
    const round = tap ? look.CHIP / 2 : 3;
    return dom.svg(
      "g",
      { class: `chip ${made.kind}` },
      dom.svg("rect", { x, y, width: made.width, height: look.CHIP, rx: round }),
      tap && dom.svg("circle", { cx: x + 9, cy: y + 8, r: 3 }),
      text(x + (tap ? 16 : 6), y + 11.5, made.shown, "chip-text"),
    );
  }

  /** A folded box or a node. Nothing here has a transform: each would cost the browser a layer. */
  function box(element, { x, y, width: w, height: h }, weight) {
    const made = look.of(element, weight);
    const group = dom.svg("g", {
      class: "box",
      ...named(element),
      "aria-expanded": made.folds ? "false" : null,
    });
    group.append(dom.svg("path", { class: "shape", d: look.outline(element.role, x, y, w, h) }));
    if (element.role === "student") {
      group.append(dom.svg("path", { class: "stripe", d: `M${x + 1.5},${y + 6}V${y + h - 6}` }));
    }
    if (element.role === "total") {
      group.append(
        dom.svg("rect", { class: "inner", x: x + 3, y: y + 3, width: w - 6, height: h - 6, rx: 2 }),
      );
    }
    const left = x + made.side;
    group.append(...letter(element, left - 2, y + 8), text(left + 20, y + 21, made.title, "title"));
    if (made.folds) group.append(chevron(x + w - made.side - 14, y + 8, false));
    let at = y + 25;
    for (const line of made.lines) group.append(text(left, (at += look.LINE) - 3.5, line, "line"));
    if (made.weight) {
      group.append(weightRow(element, weight, left, at + 2, x + w - made.side));
      at += 24;
    }
    for (const one of made.chips) group.append(chip(one, left, at + 4 + one.row * (look.CHIP + 3)));
    return group;
  }

  function frame(element, { x, y, width, height }) {
    return dom.svg(
      "g",
      { class: "frame", ...named(element), "aria-expanded": "true" },
      dom.svg("rect", { class: "shape", x, y, width, height, rx: 8 }),
    );
  }

  /** The title of a frame, over the arrows that come in from above. */
  function head(element, { x, y, width: w }) {
    const { title, head: h } = look.frame(element);
    return dom.svg(
      "g",
      {
        class: "head",
        "data-head": element.id,
        "data-role": element.role,
        "data-faded": element.faded ? "1" : null,
      },
      dom.svg("path", {
        class: "band",
        d: `M${x + 1},${y + h}V${y + 8}a7,7 0 0 1 7,-7H${x + w - 8}a7,7 0 0 1 7,7V${y + h}Z`,
      }),
      dom.svg("path", { class: "rule", d: `M${x + 1},${y + h}h${w - 2}` }),
      letter(element, x + 9, y + 6),
      text(x + 32, y + 19, title, "frame-title"),
      chevron(x + w - 25, y + 6, true),
    );
  }

  /** Right angles with small round corners. */
  function rounded(points) {
    let path = `M${points[0].x},${points[0].y}`;
    for (let i = 1; i < points.length - 1; i += 1) {
      const [a, b, c] = [points[i - 1], points[i], points[i + 1]];
      const before = Math.hypot(b.x - a.x, b.y - a.y);
      const after = Math.hypot(c.x - b.x, c.y - b.y);
      const r = Math.min(6, before / 2, after / 2);
      const from = {
        x: b.x + ((a.x - b.x) * r) / (before || 1),
        y: b.y + ((a.y - b.y) * r) / (before || 1),
      };
      const to = {
        x: b.x + ((c.x - b.x) * r) / (after || 1),
        y: b.y + ((c.y - b.y) * r) / (after || 1),
      };
      path += `L${from.x},${from.y}Q${b.x},${b.y} ${to.x},${to.y}`;
    }
    const last = points.at(-1);
    return `${path}L${last.x},${last.y}`;
  }

  function arrow(made, points) {
    const d = rounded(points);
    return dom.svg(
      "g",
      {
        class: "arrow",
        "data-from": made.source.id,
        "data-to": made.target.id,
        "data-role": made.role,
        "data-faded": made.faded ? "1" : null,
      },
      dom.svg("path", { class: "hit", d }),
      dom.svg("path", {
        class: "line",
        d,
        "marker-end": `url(#tip-${made.faded ? "faded" : made.role})`,
      }),
    );
  }

  function markers() {
    const shape = () => dom.svg("path", { d: "M0,0L8,4L0,8Z" });
    return dom.svg(
      "defs",
      {},
      [...Object.keys(look.NAMES), "faded"].map((role) =>
        dom.svg(
          "marker",
          {
            id: `tip-${role}`,
            class: "tip",
            "data-role": role,
            viewBox: "0 0 8 8",
            refX: 7.5,
            refY: 4,
            markerWidth: 8,
            markerHeight: 8,
            markerUnits: "userSpaceOnUse",
            orient: "auto",
          },
          shape(),
        ),
      ),
    );
  }

  /** Fills `world`; returns what was drawn, each with the rectangle it covers. */
  function paint(world, shown, placed) {
    const layers = ["frames", "arrows", "heads", "boxes", "labels"].map((id) =>
      dom.svg("g", { class: id }),
    );
    const [frames, arrows, heads, boxes, labels] = layers;
    const { leg } = shown;
    const drawn = { leg, items: [], byId: new Map(), arrows: new Map(), labels };
    const keep = (group, x0, y0, x1, y1) =>
      drawn.items.push({ group, x0, y0, x1, y1, shown: true });
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
      keep(
        group,
        Math.min(...xs) - 6,
        Math.min(...ys) - 6,
        Math.max(...xs) + 6,
        Math.max(...ys) + 6,
      );
      drawn.arrows.set(made.id, { arrow: made, group, points });
    }
    world.replaceChildren(markers(), ...layers);
    return drawn;
  }

  return { paint };
})();
