/* The picture as a file of its own: SVG with its styles inside, and PNG made of that. */
const exported = (() => {
  const STYLES = [
    "fill",
    "fill-opacity",
    "stroke",
    "stroke-opacity",
    "stroke-width",
    "stroke-dasharray",
    "stroke-linecap",
    "stroke-linejoin",
    "opacity",
  ];
  const FONT = ["font-family", "font-size", "font-weight", "text-anchor"];
  const PLAIN = new Set([
    "fill-opacity: 1",
    "stroke-opacity: 1",
    "stroke-dasharray: none",
    "opacity: 1",
    "stroke-linecap: butt",
    "stroke-linejoin: miter",
    "stroke: none",
  ]);
  const OURS = new Set(["class", "style", "tabindex", "role", "aria-expanded"]);
  const MARGIN = 20;
  const LARGEST = 8192; // pixels of a side that every browser can draw

  function style(from, to) {
    const found = getComputedStyle(from);
    if (found.display === "none" || found.visibility === "hidden") return false;
    const names = from.localName === "text" ? [...STYLES, ...FONT] : STYLES;
    const lines = names.map((name) => `${name}: ${found.getPropertyValue(name)}`);
    to.setAttribute("style", lines.filter((line) => !PLAIN.has(line)).join("; "));
    return true;
  }

  function copy(from) {
    const to = document.createElementNS(dom.SVG, from.localName);
    for (const { name, value } of from.attributes) {
      if (!OURS.has(name)) to.setAttribute(name, value);
    }
    if (!["g", "defs", "marker"].includes(from.localName)) {
      if (!style(from, to)) return null;
    } else {
      const { opacity, display } = getComputedStyle(from);
      if (display === "none" && from.localName === "g") return null;
      if (opacity !== "1") to.setAttribute("style", `opacity: ${opacity}`);
    }
    for (const child of from.childNodes) {
      if (child.nodeType === Node.TEXT_NODE) to.append(child.data);
      else {
        const made = child.matches(".hit, .chevron") ? null : copy(child);
        if (made) to.append(made);
      }
    }
    return to;
  }

  function svg() {
    const { width, height } = view.size();
    const [w, h] = [Math.ceil(width) + 2 * MARGIN, Math.ceil(height) + 2 * MARGIN];
    const viewBox = `${-MARGIN} ${-MARGIN} ${w} ${h}`;
    const made = dom.svg("svg", { width: w, height: h, viewBox });
    const ground = getComputedStyle(dom.at("stage")).backgroundColor;
    const world = dom.at("world");
    const back = { x: -MARGIN, y: -MARGIN, width: w, height: h, style: `fill: ${ground}` };
    made.append(dom.svg("title", {}, document.title), dom.svg("rect", back));
    const drawn = view.uncut(() => copy(world));
    drawn.removeAttribute("transform");
    drawn.removeAttribute("id");
    made.append(drawn);
    return { text: new XMLSerializer().serializeToString(made), width: w, height: h };
  }

  function named(name, suffix) {
    const plain = name.replace(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 80);
    return `${plain || "graph"}.${suffix}`;
  }

  function save(blob, name) {
    const address = URL.createObjectURL(blob);
    dom.html("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }

  function saveSvg(name) {
    save(new Blob([svg().text], { type: "image/svg+xml" }), named(name, "svg"));
  }

  async function savePng(name) {
    const { text, width, height } = svg();
    const scale = Math.min(2, LARGEST / Math.max(width, height));
    const image = new Image();
    const address = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
    image.src = address;
    await image.decode();
    const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
    const canvas = dom.html("canvas", { width: w, height: h });
    canvas.getContext("2d").drawImage(image, 0, 0, w, h);
    URL.revokeObjectURL(address);
    const blob = await new Promise((done) => {
      canvas.toBlob(done, "image/png");
    });
    save(blob, named(name, "png"));
  }

  return { saveSvg, savePng };
})();
