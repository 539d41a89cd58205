/* What letters, outlines and lines mean, and the keys. */
const legend = (() => {
  const KEYS = [
    ["/", "search; Enter: next hit"],
    ["Enter", "fold or unfold what has the focus"],
    ["Shift Enter", "with all within"],
    ["Space", "select"],
    ["Tab", "next box"],
    ["+ − 0 f", "zoom, true size, fit"],
    ["arrow keys", "pan"],
    ["[ ]", "step back, on"],
    ["u c", "unfold all, fold all"],
    ["t p", "light or dark, panel"],
  ];

  function role(name) {
    const [w, h] = [30, 22];
    const made = dom.svg("svg", {
      width: 84,
      height: 26,
      viewBox: "-2 -2 84 26",
      "aria-hidden": "true",
    });
    const box = dom.svg("g", { class: "box", "data-role": name });
    box.append(dom.svg("path", { class: "shape", d: look.outline(name, 0, 0, w, h) }));
    if (name === "student") box.append(dom.svg("path", { class: "stripe", d: `M1.5,6V${h - 6}` }));
    if (name === "total")
      box.append(
        dom.svg("rect", { class: "inner", x: 3, y: 3, width: w - 6, height: h - 6, rx: 2 }),
      );
    box.append(
      dom.svg(
        "text",
        { class: "letter-text", x: w / 2, y: 15, "text-anchor": "middle" },
        look.LETTERS[name],
      ),
    );
    const arrow = dom.svg("g", { class: "arrow", "data-role": name });
    arrow.append(
      dom.svg("path", { class: "line", d: "M38,11H76", "marker-end": `url(#tip-${name})` }),
    );
    made.append(box, name === "total" ? "" : arrow);
    return dom.html("li", {}, made, look.NAMES[name]);
  }

  function tag(kind, text) {
    return dom.html(
      "li",
      {},
      dom.html("span", { class: `tag ${kind}` }, kind === "tap" ? "tap" : "fused"),
      text,
    );
  }

  function start() {
    dom.at("legend-body").append(
      dom.html(
        "ul",
        { class: "roles" },
        Object.keys(look.NAMES).map(role),
        dom.html(
          "li",
          {},
          dom.html("span", { class: "cut" }, "cut"),
          "left out by a pass, with the reason in the panel",
        ),
        tag("tap", "read by a link or a loss"),
        tag("mark", "what a pass made of it; a chosen kernel"),
      ),
      dom.html(
        "dl",
        {},
        KEYS.map(([key, what]) => [dom.html("dt", {}, key), dom.html("dd", {}, what)]),
      ),
    );
  }

  return { start };
})();
