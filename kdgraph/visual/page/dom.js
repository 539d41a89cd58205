/* Elements, text and numbers. Text of a scene becomes text nodes and attributes, never markup. */
const dom = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  // What XML cannot hold would make an exported picture unreadable.
  const FORBIDDEN = /[\u0000-\u001f\u007f-\u009f\ufffe\uffff]/g;
  const LONE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

  const clean = (text) => String(text).replace(FORBIDDEN, " ").replace(LONE, "\ufffd");

  function fill(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes ?? {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value === true ? "" : clean(value));
    }
    for (const child of children.flat(Infinity)) {
      if (child === null || child === undefined || child === false) continue;
      node.append(child instanceof Node ? child : clean(child));
    }
    return node;
  }

  const html = (tag, attributes, ...children) =>
    fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) =>
    fill(document.createElementNS(SVG, tag), attributes, children);
  const at = (id) => document.getElementById(id);

  const canvas = document.createElement("canvas").getContext("2d");
  const widths = new Map();

  /** The width of a text in pixels. */
  function width(text, font) {
    const key = `${font}|${text}`;
    if (!widths.has(key)) {
      canvas.font = font;
      widths.set(key, canvas.measureText(text).width);
    }
    return widths.get(key);
  }

  const segments = (text) =>
    globalThis.Intl?.Segmenter
      ? Array.from(new Intl.Segmenter().segment(text), (s) => s.segment)
      : Array.from(text);

  /** A text shortened to a width, with an ellipsis; never through the middle of a character. */
  function shorten(text, font, limit) {
    const whole = clean(text);
    if (whole.length < 400 && width(whole, font) <= limit) return whole;
    const parts = segments(whole.slice(0, 400));
    let low = 0;
    let high = parts.length;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (width(`${parts.slice(0, middle).join("")}…`, font) <= limit) low = middle;
      else high = middle - 1;
    }
    return `${parts.slice(0, low).join("").trimEnd()}…`;
  }

  return { SVG, clean, html, svg, at, width, shorten };
})();

/* Numbers as people write them. */
const say = (() => {
  const trim = (value) => String(Number(value.toPrecision(3)));

  function scaled(value, base, units) {
    let index = 0;
    while (Math.abs(value) >= base && index < units.length - 1) {
      value /= base;
      index += 1;
    }
    return `${index ? trim(value) : value} ${units[index]}`.trimEnd();
  }

  const count = (value) => value.toLocaleString("en-US");
  const flops = (value) => scaled(value, 1000, ["", "K", "M", "G", "T", "P"]);
  const bytes = (value) => scaled(value, 1000, ["B", "kB", "MB", "GB", "TB"]);
  const shape = (sizes) => (!sizes ? "" : sizes.length ? `[${sizes.join(", ")}]` : "scalar");
  const share = (part, whole) => (whole ? `${Math.round((100 * part) / whole)} %` : "");

  /** A steered number: three digits, and no more than it needs. */
  function number(value) {
    if (!Number.isFinite(value)) return String(value);
    const size = Math.abs(value);
    if (size && (size < 0.001 || size >= 1e6)) return value.toExponential(2);
    return size >= 1000 ? String(Math.round(value)) : trim(value);
  }

  return { count, flops, bytes, shape, share, number };
})();
