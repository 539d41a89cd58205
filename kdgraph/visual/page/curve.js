/* A number over training, drawn small. */
const curve = (() => {
  /** A curve over training, `w` by `h`; its zero is the lower edge unless it goes below. */
  function path(values, x, y, w, h) {
    const { low, span } = range(values);
    return values
      .map(
        (v, i) =>
          `${i ? "L" : "M"}${(x + (i * w) / (values.length - 1)).toFixed(1)},` +
          `${(y + h - ((v - low) / span) * h).toFixed(1)}`,
      )
      .join("");
  }

  function range(values) {
    const low = Math.min(0, ...values);
    return { low, span: Math.max(...values) - low || 1 };
  }

  /** The curve of a number, with a dot that `weights` moves. */
  const spark = (values, x, y, w, h) => [
    dom.svg("path", { class: "axis", d: `M${x},${y + h}h${w}` }),
    dom.svg("path", { class: "curve", d: path(values, x, y, w, h) }),
    dom.svg("circle", { class: "now", r: 3, "data-at": `${x} ${y} ${w} ${h}` }),
  ];

  return { spark, range };
})();
