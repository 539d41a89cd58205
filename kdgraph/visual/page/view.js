/* Where one looks: pan, zoom, fit; hides what is off screen. */
const view = (() => {
  const NEAR = 1.3; // from here on arrows carry their shapes
  const FAR = 0.4; // below it text is too small to read
  const [LEAST, MOST] = [0.004, 4];

  const graph = dom.at("graph");
  const world = dom.at("world");
  const canvas = dom.at("canvas");
  const state = { x: 0, y: 0, scale: 1 };
  let drawn = { items: [] };
  let size = { width: 0, height: 0 };
  let box = graph.getBoundingClientRect();
  let culled = null;
  let drawnAt = null;
  let waiting = false;
  const listeners = [];

  const area = () => box;

  function apply() {
    waiting = false;
    const { x, y, scale } = state;
    // whole pixels keep text sharp
    canvas.style.transform = `translate(${Math.round(x)}px,${Math.round(y)}px)`;
    if (scale !== drawnAt) world.setAttribute("transform", `scale(${scale})`);
    drawnAt = scale;
    graph.classList.toggle("far", scale < FAR);
    graph.classList.toggle("near", scale >= NEAR);
    cull();
    listeners.forEach((tell) => tell(state));
  }

  function change(x, y, scale) {
    Object.assign(state, { x, y, scale });
    if (!waiting) requestAnimationFrame(apply);
    waiting = true;
  }

  /** Shows what lies within a screen of the window; anew only when the window leaves that. */
  function cull() {
    const { x, y, scale } = state;
    const { width: w, height: h } = box;
    const seen = { x0: -x / scale, y0: -y / scale, x1: (w - x) / scale, y1: (h - y) / scale };
    const inside =
      culled &&
      seen.x0 >= culled.x0 &&
      seen.y0 >= culled.y0 &&
      seen.x1 <= culled.x1 &&
      seen.y1 <= culled.y1;
    if (inside && scale / culled.scale < 2) return;
    const [mx, my] = [(0.5 * w) / scale, (0.5 * h) / scale];
    culled = { x0: seen.x0 - mx, y0: seen.y0 - my, x1: seen.x1 + mx, y1: seen.y1 + my, scale };
    for (const item of drawn.items) {
      const shown =
        item.x1 >= culled.x0 &&
        item.x0 <= culled.x1 &&
        item.y1 >= culled.y0 &&
        item.y0 <= culled.y1;
      if (shown === item.shown) continue;
      item.shown = shown;
      item.group.style.display = shown ? "" : "none";
    }
  }

  function set(next, placed) {
    drawn = next;
    size = { width: placed.width, height: placed.height };
    culled = null;
  }

  /** All of it, no larger than life; where that would be too small to read, its beginning. */
  function fit(readable = false) {
    const { width, height } = area();
    const wide = Math.min(1, (width - 48) / size.width);
    let scale = Math.max(LEAST, Math.min(wide, (height - 48) / size.height));
    if (readable && scale < FAR) scale = Math.min(wide, Math.max(FAR, scale));
    const [w, h] = [size.width * scale, size.height * scale];
    change((width - w) / 2, Math.max(24, (height - h) / 2), scale);
  }

  /** Zooms about a point of the window, by default its middle. */
  function zoom(factor, at) {
    const { width, height } = area();
    const { x: px, y: py } = at ?? { x: width / 2, y: height / 2 };
    const scale = Math.min(MOST, Math.max(LEAST, state.scale * factor));
    const ratio = scale / state.scale;
    change(px - (px - state.x) * ratio, py - (py - state.y) * ratio, scale);
  }

  /** A layer of its own while it is dragged: the browser only shifts it, and text is less sharp. */
  const lift = (up) => canvas.classList.toggle("lifted", up);

  const pan = (dx, dy) => change(state.x + dx, state.y + dy, state.scale);

  /** Brings a rectangle into the window; to its middle if asked. */
  function show(place, middle) {
    const { width, height } = area();
    const scale = middle ? Math.max(state.scale, 0.75) : state.scale;
    const x0 = place.x * scale + state.x;
    const y0 = place.y * scale + state.y;
    const within =
      x0 >= 0 &&
      y0 >= 0 &&
      x0 + place.width * scale <= width &&
      y0 + place.height * scale <= height;
    if (within && !middle) return;
    const x = width / 2 - (place.x + place.width / 2) * scale;
    const tall = place.height * scale > height;
    const y = tall ? 40 - place.y * scale : height / 2 - (place.y + place.height / 2) * scale;
    change(x, y, scale);
  }

  /** Where a point of the graph is in the window, and how to put another one there. */
  const toWindow = (x, y) => ({ x: x * state.scale + state.x, y: y * state.scale + state.y });
  const hold = (x, y, at) => change(at.x - x * state.scale, at.y - y * state.scale, state.scale);

  /** Everything is shown while `work` runs. */
  function uncut(work) {
    for (const item of drawn.items) item.group.style.display = "";
    const kinds = graph.getAttribute("class");
    graph.removeAttribute("class");
    try {
      return work();
    } finally {
      graph.setAttribute("class", kinds ?? "");
      for (const item of drawn.items) item.group.style.display = item.shown ? "" : "none";
    }
  }

  const onChange = (tell) => listeners.push(tell);
  new ResizeObserver(() => {
    box = graph.getBoundingClientRect();
    culled = null;
    if (!waiting) requestAnimationFrame(apply);
    waiting = true;
  }).observe(graph);

  return {
    NEAR,
    state,
    set,
    fit,
    zoom,
    pan,
    lift,
    show,
    toWindow,
    hold,
    uncut,
    onChange,
    size: () => size,
  };
})();
