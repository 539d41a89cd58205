/* The tree of what can be shown, what of it is unfolded, and the arrows between what is visible. */
const model = (() => {
  function part(fields) {
    return {
      lines: [],
      taps: [],
      marks: [],
      faded: false,
      why: null,
      edge: null,
      after: null,
      node: null,
      nodes: [],
      children: [],
      parent: null,
      frame: null,
      path: "",
      type: "",
      ...fields,
    };
  }

  /** A group that holds one group alone is shown as one. */
  function adopt(element, items) {
    while (items.length === 1 && typeof items[0] === "object") items = items[0].items;
    return items;
  }

  function grow(element, items, pool, seen) {
    const inner = adopt(element, items);
    if (inner.length === 1) {
      element.node = pool[inner[0]];
      element.nodes = [element.node];
      return;
    }
    for (const item of inner) {
      const child =
        typeof item === "number" ? leaf(pool[item], element, seen) : group(item, element);
      child.parent = element;
      child.frame = element.frame;
      if (typeof item !== "number") grow(child, item.items, pool, seen);
      element.children.push(child);
      element.nodes.push(...child.nodes);
    }
  }

  function leaf(node, inside, seen) {
    const id = seen.has(node.name) ? `${inside.id}:${node.name}` : node.name;
    seen.add(node.name);
    return part({
      id: `node:${id}`,
      kind: "node",
      title: node.title,
      role: node.role,
      faded: inside.faded,
      path: node.path,
      type: node.kind,
      node,
      nodes: [node],
    });
  }

  function group(item, inside) {
    return part({
      id: item.id,
      kind: "group",
      title: item.title,
      role: inside.role,
      faded: inside.faded,
      path: item.path,
      type: item.kind,
    });
  }

  /** Everything of a step: `roots` in order, and all of it by id and in the order of the data. */
  function tree(leg, step) {
    const frames = new Map();
    const roots = [];
    const seen = new Set();
    for (const cluster of step.clusters) {
      const frame = part({ ...cluster, id: `cluster:${cluster.id}`, kind: "cluster" });
      frames.set(cluster.id, frame);
    }
    for (const box of step.boxes) {
      const element = part({ ...box, kind: "box", parent: frames.get(box.cluster) ?? null });
      element.frame = element.parent;
      grow(element, box.items, leg.nodes, seen);
      if (element.node)
        Object.assign(element, { path: element.node.path, type: element.node.kind });
      if (!element.parent) roots.push(element);
      else {
        if (!element.parent.children.length) roots.push(element.parent);
        element.parent.children.push(element);
        element.parent.nodes.push(...element.nodes);
      }
    }
    const byId = new Map();
    const walk = (element) => {
      byId.set(element.id, element);
      element.children.forEach(walk);
    };
    roots.forEach(walk);
    return { leg, step, roots, byId };
  }

  /** What is unfolded: clusters are at first, all else is not. */
  class Folds {
    constructor() {
      this.open = new Set();
      this.shut = new Set();
    }

    isOpen(element) {
      if (!element.children.length) return false;
      return element.kind === "cluster" ? !this.shut.has(element.id) : this.open.has(element.id);
    }

    set(element, open) {
      if (element.kind === "cluster") this.shut[open ? "delete" : "add"](element.id);
      else this.open[open ? "add" : "delete"](element.id);
    }

    /** The element and all within it. */
    setAll(element, open) {
      this.set(element, open);
      element.children.forEach((child) => this.setAll(child, open));
    }

    /** A name for what is unfolded now. */
    get key() {
      return JSON.stringify([[...this.open].sort(), [...this.shut].sort()]);
    }

    /** Unfolds what is around an element. */
    reveal(element) {
      for (let above = element.parent; above; above = above.parent) this.set(above, true);
    }
  }

  function visible(grown, folds) {
    const leaves = [];
    const walk = (element) => {
      if (folds.isOpen(element)) element.children.forEach(walk);
      else leaves.push(element);
    };
    grown.roots.forEach(walk);
    return { ...grown, folds, leaves, arrows: arrows(grown, leaves) };
  }

  function arrows({ byId }, leaves) {
    const live = new Map();
    const faded = new Map();
    for (const element of leaves) {
      for (const node of element.nodes) {
        const isFaded = element.faded || (element.kind === "cluster" && !belongs(element, node));
        (isFaded ? faded : live).set(node.name, { element, node });
      }
    }
    const found = new Map();
    const add = (source, target, role, node) => {
      if (source === target) return;
      const id = `${source.id}→${target.id}`;
      const isFaded = source.faded || target.faded;
      if (!found.has(id)) found.set(id, { id, source, target, role, faded: isFaded, nodes: [] });
      if (node && !found.get(id).nodes.includes(node)) found.get(id).nodes.push(node);
    };
    for (const element of leaves) {
      let hangs = element.faded;
      for (const node of element.nodes) {
        for (const name of node.inputs) {
          const from = (element.faded && faded.get(name)) || live.get(name);
          if (!from) continue;
          if (from.element !== element) hangs = false;
          add(from.element, element, from.node.role, from.node);
        }
      }
      if (hangs && element.after) hang(element, byId.get(element.after), leaves, add);
    }
    return reduced([...found.values()]);
  }

  const belongs = (cluster, node) =>
    cluster.children.some((box) => !box.faded && box.nodes.includes(node));

  /** A faded box without inputs hangs on the last of what stands for the box before it. */
  function hang(element, before, leaves, add) {
    if (!before) return;
    const within = (leaf) => {
      for (let above = leaf; above; above = above.parent) if (above === before) return true;
      return false;
    };
    const last =
      leaves.filter(within).at(-1) ?? (before.frame && leaves.find((l) => l === before.frame));
    if (last) add(last, element, element.role, null);
  }

  /** Leaves out what flows around folded parts of a model and through them as well. */
  function reduced(all) {
    const next = new Map();
    for (const arrow of all) {
      if (!next.has(arrow.source)) next.set(arrow.source, []);
      next.get(arrow.source).push(arrow.target);
    }
    const folded = (arrow) =>
      arrow.source.frame &&
      arrow.source.frame === arrow.target.frame &&
      !arrow.faded &&
      arrow.source.kind !== "node" &&
      arrow.target.kind !== "node";
    const longer = (arrow) => {
      const waiting = next.get(arrow.source).filter((e) => e !== arrow.target);
      const been = new Set(waiting);
      while (waiting.length) {
        const element = waiting.pop();
        if (element === arrow.target) return true;
        for (const after of next.get(element) ?? []) {
          if (after.frame !== arrow.source.frame || been.has(after)) continue;
          been.add(after);
          waiting.push(after);
        }
      }
      return false;
    };
    return all.filter((arrow) => !folded(arrow) || !longer(arrow));
  }

  /** Texts that a search looks through. */
  const words = (element) => {
    const node = element.node;
    const more = node ? [node.name, node.title, node.path, node.kind, node.target] : [];
    const texts = [element.title, element.path, element.type, ...element.taps, ...element.marks];
    return [...texts, ...more].join("\n").toLowerCase();
  };

  return { tree, visible, Folds, words };
})();
