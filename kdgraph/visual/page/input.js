/* Pointer, wheel and keys on the graph. */
const input = (() => {
  const graph = dom.at("graph");
  const tip = dom.at("tip");
  const cover = dom.at("cover"); // over the graph while it is dragged
  const SLACK = 4; // pixels that a click may tremble
  const WAIT = 400; // milliseconds until a tip shows
  const STEP = 80; // pixels an arrow key pans

  const idOf = (target) => {
    const found = target.closest?.("[data-id], [data-head]");
    return found?.dataset.id ?? found?.dataset.head ?? null;
  };
  const arrowOf = (target) => target.closest?.(".arrow");

  function pointer(on) {
    let down = null;
    graph.addEventListener("pointerdown", (event) => {
      if (event.button === 0) down = { x: event.clientX, y: event.clientY, moved: false };
    });
    graph.addEventListener("pointermove", (event) => {
      if (!down) return;
      const [dx, dy] = [event.clientX - down.x, event.clientY - down.y];
      if (!down.moved && Math.hypot(dx, dy) < SLACK) return;
      if (!down.moved) graph.setPointerCapture(event.pointerId);
      Object.assign(down, { moved: true, x: event.clientX, y: event.clientY });
      cover.hidden = false;
      view.lift(true);
      tip.hidden = true;
      view.pan(dx, dy);
    });
    const up = (event) => {
      const clicked = down && !down.moved && event.type === "pointerup";
      down = null;
      cover.hidden = true;
      view.lift(false);
      if (clicked) click(event, on);
    };
    graph.addEventListener("pointerup", up);
    graph.addEventListener("pointercancel", up);
    graph.addEventListener("dblclick", (event) => {
      const id = idOf(event.target);
      if (id && !event.target.closest("[data-fold]")) on.toggle(id, false);
    });
  }

  function click(event, on) {
    const id = idOf(event.target);
    const line = arrowOf(event.target);
    if (id && event.target.closest("[data-fold]")) on.toggle(id, event.shiftKey);
    else if (id) on.select(id);
    else if (line) on.selectArrow(`${line.dataset.from}→${line.dataset.to}`);
    else on.select(null);
  }

  let at = { clientX: 0, clientY: 0 };

  function show(text) {
    tip.hidden = !cover.hidden;
    tip.textContent = text;
    const { offsetWidth: w, offsetHeight: h } = tip;
    const below = at.clientY + 18;
    tip.style.left = `${Math.max(4, Math.min(at.clientX + 14, innerWidth - w - 8))}px`;
    tip.style.top = `${below + h > innerHeight ? at.clientY - h - 10 : below}px`;
  }

  function hover(on) {
    let waiting = 0;
    graph.addEventListener("pointerover", (event) => {
      const [id, line] = [idOf(event.target), arrowOf(event.target)];
      on.hover(id, line ? `${line.dataset.from}→${line.dataset.to}` : null);
      clearTimeout(waiting);
      tip.hidden = true;
      if (id) waiting = setTimeout(() => show(on.tip(id)), WAIT);
    });
    graph.addEventListener("pointermove", (event) => {
      at = event;
    });
    graph.addEventListener("pointerleave", () => {
      clearTimeout(waiting);
      tip.hidden = true;
      on.hover(null, null);
    });
  }

  function wheel(embedded) {
    graph.addEventListener(
      "wheel",
      (event) => {
        // In a page around this one the wheel scrolls that page, until the graph is in use.
        if (embedded && !event.ctrlKey && !graph.contains(document.activeElement)) return;
        event.preventDefault();
        const lines = event.deltaMode === 1 ? 16 : 1;
        if (event.shiftKey) {
          view.pan(-(event.deltaX || event.deltaY) * lines, 0);
          return;
        }
        const { left, top } = graph.getBoundingClientRect();
        const factor = Math.exp(-Math.max(-200, Math.min(200, event.deltaY * lines)) * 0.0022);
        view.zoom(factor, { x: event.clientX - left, y: event.clientY - top });
      },
      { passive: false },
    );
  }

  const KEYS = {
    "+": () => view.zoom(1.25),
    "=": () => view.zoom(1.25),
    "-": () => view.zoom(0.8),
    0: () => view.zoom(1 / view.state.scale),
    f: () => view.fit(),
    ArrowLeft: () => view.pan(STEP, 0),
    ArrowRight: () => view.pan(-STEP, 0),
    ArrowUp: () => view.pan(0, STEP),
    ArrowDown: () => view.pan(0, -STEP),
    "/": () => search.focus(),
    "[": () => steps.move(-1),
    "]": () => steps.move(1),
    u: () => dom.at("unfold-all").click(),
    c: () => dom.at("fold-all").click(),
    t: () => dom.at("theme").click(),
    p: () => dom.at("panel-toggle").click(),
  };

  function keys(on) {
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const target = event.target;
      if (target.matches("input, select, textarea")) return;
      const focused = target.closest("#graph [data-id]")?.dataset.id;
      if (event.key === "Tab") {
        if (focused && on.walk(focused, event.shiftKey ? -1 : 1)) event.preventDefault();
        return;
      }
      if (event.key === "Escape") on.select(null);
      else if (focused && event.key === "Enter")
        on.toggle(focused, event.shiftKey) || on.select(focused);
      else if (focused && event.key === " ") on.select(focused);
      else if (KEYS[event.key] && !(target.matches("summary, button") && event.key === "Enter"))
        KEYS[event.key]();
      else return;
      event.preventDefault();
    });
    graph.addEventListener("focusin", (event) => {
      if (event.target.matches("[data-id]:focus-visible")) on.focus(event.target.dataset.id);
    });
  }

  function start(on, embedded) {
    pointer(on);
    hover(on);
    wheel(embedded);
    keys(on);
  }

  return { start };
})();
