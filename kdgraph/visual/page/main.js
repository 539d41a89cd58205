/* Brings the parts together: what is shown, what is selected, what happens on a click. */
(() => {
  const root = document.documentElement;
  const scene = JSON.parse(dom.at("scene").textContent);
  const embedded = root.dataset.embedded === "1";
  const folds = new model.Folds();
  const now = {
    leg: 0,
    step: steps.lastOf(scene.legs[0]),
    selected: null,
    arrow: null,
    hover: null,
    hoverArrow: null,
  };
  const grown = new Map();
  let shown = null;
  let drawn = null;
  let turn = 0;

  const leg = () => scene.legs[now.leg];
  function tree() {
    const key = `${now.leg}.${now.step}`;
    if (!grown.has(key)) grown.set(key, model.tree(leg(), leg().steps[now.step]));
    return grown.get(key);
  }
  const selected = () => shown?.byId.get(now.selected) ?? null;

  /** Lays out and draws anew; afterwards `settle` says where to look. */
  async function refresh(settle) {
    const mine = ++turn;
    delete root.dataset.ready;
    const busy = setTimeout(() => {
      dom.at("busy").hidden = false;
    }, 200);
    const next = model.visible(tree(), folds);
    try {
      const key = `${now.leg} ${now.step} ${folds.key}`;
      const placed = await layout.place(key, next, leg().weights);
      if (mine !== turn) return;
      shown = next;
      drawn = draw.paint(dom.at("world"), next, placed);
      view.set(drawn, placed);
      weights.into(drawn);
      dom.at("wrong").hidden = true;
      (settle ?? (() => view.fit(true)))();
      mark();
      tell();
    } catch (error) {
      if (mine !== turn) return;
      dom.at("wrong").textContent = `This graph could not be laid out: ${error.message}`;
      dom.at("wrong").hidden = false;
      console.error(error);
    } finally {
      clearTimeout(busy);
      if (mine === turn) dom.at("busy").hidden = true;
    }
    requestAnimationFrame(() => {
      if (mine === turn) root.dataset.ready = "1";
    });
  }

  function tell() {
    const element = selected();
    const arrow = drawn.arrows.get(now.arrow)?.arrow;
    if (element) facts.selected(element, shown, goTo);
    else if (arrow) facts.arrow(arrow, goTo);
    else overview.leg(shown, scene);
  }

  /** Classes for what is selected, hovered, found; labels of the arrows in use. */
  function mark() {
    const used = new Set([now.arrow, now.hoverArrow].filter((id) => drawn.arrows.has(id)));
    for (const [id, { element, group }] of drawn.byId) {
      group.classList.toggle("selected", id === now.selected);
      group.classList.toggle("hit", search.isHit(element));
    }
    for (const [id, { arrow, group }] of drawn.arrows) {
      const ends = [arrow.source.id, arrow.target.id];
      if (ends.includes(now.selected) || ends.includes(now.hover)) used.add(id);
      group.classList.toggle("used", used.has(id));
    }
    labels.show(drawn, used, view.state.scale >= view.NEAR);
  }

  function select(id, arrow = null) {
    Object.assign(now, { selected: id, arrow });
    mark();
    tell();
  }

  /** Folds or unfolds; the title stays where it is. False where there is nothing to fold. */
  function toggle(id, deep) {
    const element = shown.byId.get(id);
    if (!element.children.length) return false;
    const { place } = drawn.byId.get(id);
    const at = view.toWindow(place.x, place.y);
    if (deep) folds.setAll(element, !folds.isOpen(element));
    else folds.set(element, !folds.isOpen(element));
    const focused = document.activeElement?.closest?.("#graph [data-id]")?.dataset.id;
    refresh(() => {
      const found = drawn.byId.get(id);
      if (!found) return;
      view.hold(found.place.x, found.place.y, at);
      if (focused === id) found.group.focus({ preventScroll: true });
    });
    return true;
  }

  /** Unfolds what is around an element, selects it and brings it to the middle. */
  function goTo(element) {
    now.selected = element.id;
    now.arrow = null;
    const look = () => view.show(drawn.byId.get(element.id).place, true);
    if (drawn.byId.has(element.id)) {
      look();
      mark();
      tell();
      return;
    }
    folds.reveal(element);
    refresh(look);
  }

  function change(what) {
    const switched = what.leg !== undefined && what.leg !== now.leg;
    Object.assign(now, what);
    if (switched) {
      now.step = steps.lastOf(leg());
      weights.show(leg());
    }
    const before = selected() ?? shown?.roots[0];
    const at = before && drawn?.byId.get(before.id);
    const held = at && view.toWindow(at.place.x, at.place.y);
    steps.show(leg(), now.leg, now.step);
    overview.step(leg(), now.step);
    search.over(tree().byId);
    refresh(() => {
      const after = held && drawn.byId.get(before.id);
      if (after && !switched) view.hold(after.place.x, after.place.y, held);
      else view.fit(true);
    });
  }

  function tip(id) {
    const { element } = drawn.byId.get(id);
    const lines = [element.title || element.id, element.path, ...element.lines, element.why];
    return [...new Set(lines.filter(Boolean))].join("\n");
  }

  /** Moves the focus to the next box in the order of the data; false at the end. */
  function walk(id, by) {
    const ids = [...drawn.byId.keys()];
    const next = ids[ids.indexOf(id) + by];
    if (next === undefined) return false;
    const { group, place } = drawn.byId.get(next);
    group.style.display = "";
    group.focus({ preventScroll: true });
    view.show(place, false);
    return true;
  }

  const all = (open) => () => {
    if (open) tree().roots.forEach((e) => folds.setAll(e, true));
    else folds.open.clear();
    folds.shut.clear();
    refresh(() => view.fit(true));
  };

  function buttons() {
    const press = (id, work) => dom.at(id).addEventListener("click", work);
    press("fold-all", all(false));
    press("unfold-all", all(true));
    press("zoom-in", () => view.zoom(1.25));
    press("zoom-out", () => view.zoom(0.8));
    press("zoom-at", () => view.zoom(1 / view.state.scale));
    press("zoom-fit", () => view.fit());
    press("export-svg", () => exported.saveSvg(scene.name));
    press("export-png", () => exported.savePng(scene.name));
    press("theme", () => {
      const dark =
        getComputedStyle(root).colorScheme === "dark" ||
        (root.dataset.theme === undefined && matchMedia("(prefers-color-scheme: dark)").matches);
      root.dataset.theme = dark ? "light" : "dark";
    });
    press("panel-toggle", () => {
      const hidden = document.body.classList.toggle("no-panel");
      dom.at("panel-toggle").setAttribute("aria-expanded", String(!hidden));
    });
  }

  // Labels follow once the view rests.
  let near = false;
  let resting = 0;
  view.onChange(({ scale }) => {
    dom.at("zoom-at").textContent = `${Math.round(scale * 100)} %`;
    if (!drawn || (scale < view.NEAR && !near)) return;
    near = scale >= view.NEAR;
    clearTimeout(resting);
    resting = setTimeout(mark, 60);
  });

  dom.at("name").textContent = dom.clean(scene.name);
  dom.at("name").title = dom.clean(scene.name);
  document.body.classList.toggle("no-panel", embedded);
  dom.at("panel-toggle").setAttribute("aria-expanded", String(!embedded));
  legend.start();
  buttons();
  weights.show(leg());
  weights.whenMoved(() => {
    if (!drawn) return;
    weights.into(drawn);
    if (leg().weights[selected()?.edge]) tell();
  });
  steps.start(scene, change);
  search.start(goTo, () => drawn && mark());
  input.start(
    {
      toggle,
      tip,
      walk,
      select: (id) => select(id),
      selectArrow: (id) => select(null, id),
      hover: (id, arrow) => {
        if (!drawn || (now.hover === id && now.hoverArrow === arrow)) return;
        Object.assign(now, { hover: id, hoverArrow: arrow });
        mark();
      },
      focus: (id) => view.show(drawn.byId.get(id).place, false),
    },
    embedded,
  );
  change({});
})();
