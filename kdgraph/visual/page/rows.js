/* The blocks that the panel is made of: headings, terms, lists, tables. */
const rows = (() => {
  const heading = (text) => dom.html("h3", {}, text);
  const isolated = (tag, attributes, text) => dom.html(tag, { dir: "auto", ...attributes }, text);

  /** Terms and what they are; leaves out what is not there. */
  function terms(pairs) {
    const shown = pairs.filter(
      ([, value]) => value !== null && value !== undefined && value !== "",
    );
    if (!shown.length) return null;
    return dom.html(
      "dl",
      {},
      shown.map(([name, value, key]) => [
        dom.html("dt", {}, name),
        dom.html(
          "dd",
          { dir: "auto", "data-fact": key ?? name },
          value instanceof Node ? value : String(value),
        ),
      ]),
    );
  }

  const bullets = (texts, kind) =>
    texts.length
      ? dom.html(
          "ul",
          { class: kind },
          texts.map((t) => isolated("li", {}, t)),
        )
      : null;

  /** A node goes by its path: the last part of that says little. */
  const called = (element) =>
    (element.kind === "node" && element.path) || element.title || element.id;

  /** A list whose rows lead to other parts of the graph. */
  function links(elements, goTo) {
    return dom.html(
      "ul",
      { class: "links" },
      elements.map(([element, note]) =>
        dom.html(
          "li",
          {},
          dom.html(
            "button",
            { type: "button", dir: "auto", onclick: () => goTo(element) },
            called(element),
          ),
          note ? dom.html("span", { class: "note" }, note) : null,
        ),
      ),
    );
  }

  function table(heads, rows) {
    return dom.html(
      "table",
      {},
      dom.html(
        "thead",
        {},
        dom.html(
          "tr",
          {},
          heads.map((h) => dom.html("th", { scope: "col" }, h)),
        ),
      ),
      dom.html(
        "tbody",
        {},
        rows.map((cells) =>
          dom.html(
            "tr",
            {},
            cells.map((c, i) =>
              dom.html(i ? "td" : "th", { dir: "auto", scope: i ? null : "row" }, c),
            ),
          ),
        ),
      ),
    );
  }

  return { heading, isolated, terms, bullets, links, table, called };
})();
