/* Places what is visible: the Eclipse Layout Kernel, in a worker where the browser allows one. */
const layout = (() => {
  const OPTIONS = {
    "elk.algorithm": "layered",
    "elk.direction": "DOWN",
    "elk.hierarchyHandling": "INCLUDE_CHILDREN",
    "elk.edgeRouting": "ORTHOGONAL",
    "elk.json.shapeCoords": "ROOT",
    "elk.json.edgeCoords": "ROOT",
    "elk.randomSeed": "1",
    "elk.spacing.nodeNode": "26",
    "elk.spacing.edgeNode": "16",
    "elk.spacing.edgeEdge": "10",
    "elk.layered.spacing.nodeNodeBetweenLayers": "26",
    "elk.layered.spacing.edgeNodeBetweenLayers": "12",
    "elk.layered.spacing.edgeEdgeBetweenLayers": "9",
    "elk.layered.considerModelOrder.strategy": "PREFER_NODES",
    "elk.layered.layering.strategy": "LONGEST_PATH_SOURCE", // models start side by side
    "elk.layered.crossingMinimization.semiInteractive": "true", // and keep their order
    "elk.layered.nodePlacement.strategy": "BRANDES_KOEPF",
    "elk.layered.nodePlacement.bk.fixedAlignment": "BALANCED",
  };

  // Arrows as straight as may be; but each straight arrow from frame to frame moves the next one
  // aside, and a long row of frames would run across the whole picture.
  const STRAIGHT = { "elk.layered.nodePlacement.bk.fixedAlignment": "NONE" };
  const CENTRED = { "elk.layered.nodePlacement.strategy": "SIMPLE" };
  const MANY = 4;

  let engine = null;

  /** One worker for the life of the page; what it cannot do, the page does itself. */
  function start() {
    const text = dom.at("elk").textContent;
    return new Promise((ready) => {
      const alone = () => {
        const script = document.createElement("script");
        script.textContent = text;
        document.head.append(script);
        const elk = new globalThis.ELK();
        ready((graph) => elk.layout(graph));
      };
      try {
        const worker = spawn(text);
        worker.onerror = alone;
        worker.onmessage = () => {
          worker.onerror = null;
          ready((graph) => ask(worker, graph));
        };
        worker.postMessage({ id: 0, cmd: "register", algorithms: ["layered"] });
      } catch {
        alone();
      }
    });
  }

  /** In a worker the bundle answers messages itself, as soon as something asks for its engine. */
  function spawn(text) {
    const source = new Blob([text, "\ntry { new ELK(); } catch {}\n"], { type: "text/javascript" });
    const address = URL.createObjectURL(source);
    try {
      return new Worker(address);
    } finally {
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    }
  }

  let asked = 0;

  function ask(worker, graph) {
    const id = ++asked;
    return new Promise((resolve, reject) => {
      const answer = ({ data }) => {
        if (data.id !== id) return;
        worker.removeEventListener("message", answer);
        if (data.error) reject(new Error(data.error.message ?? String(data.error)));
        else resolve(data.data);
      };
      worker.addEventListener("message", answer);
      worker.postMessage({ id, cmd: "layout", graph, layoutOptions: {}, options: {} });
    });
  }

  /** Teachers left, students right, what joins them between. */
  const rank = ({ kind, role }) =>
    role === "batch" ? 0 : kind !== "cluster" ? 2 : role === "student" ? 3 : 1;
  const sorted = (roots) => [...roots].sort((a, b) => rank(a) - rank(b));

  const port = (id, where) => ({
    id,
    width: 0,
    height: 0,
    layoutOptions: { "elk.port.side": where },
  });

  /** An unfolded element. ELK turns the graph by a right angle, but not the least size. */
  function frame(element, children) {
    const { width, head } = look.frame(element);
    const frames = children.filter((child) => child.children).length;
    return {
      id: element.id,
      layoutOptions: {
        "elk.padding": `[top=${head + 12},left=14,bottom=14,right=14]`,
        "elk.alignment": "TOP",
        ...(frames < MANY ? STRAIGHT : CENTRED),
        "elk.contentAlignment": "[H_CENTER, V_CENTER]",
        "elk.nodeSize.constraints": "MINIMUM_SIZE",
        "elk.nodeSize.minimum": `(${head + 20},${width})`,
      },
      children,
    };
  }

  /** A folded element: one way out for all arrows, a way in for each. */
  function leaf(element, weight, incoming, leaves) {
    const { width, height } = look.of(element, weight);
    const together = element.role === "total" && incoming.length;
    const ports = together
      ? [port("in total", "NORTH")]
      : incoming.map((arrow) => port(`in ${arrow.id}`, "NORTH"));
    if (leaves) ports.push(port(`out ${element.id}`, "SOUTH"));
    const layoutOptions = {
      "elk.portConstraints": "FIXED_SIDE",
      "elk.portAlignment.default": "CENTER",
    };
    const end = { batch: "FIRST", total: "LAST" }[element.role];
    if (end) layoutOptions["elk.layered.layering.layerConstraint"] = end;
    return { id: element.id, width, height, ports, layoutOptions };
  }

  function toGraph(shown, weights) {
    const incoming = Map.groupBy(shown.arrows, (arrow) => arrow.target);
    const outgoing = new Set(shown.arrows.map((arrow) => arrow.source));
    const node = (element) =>
      shown.folds.isOpen(element)
        ? frame(element, element.children.map(node))
        : leaf(element, weights[element.edge], incoming.get(element) ?? [], outgoing.has(element));
    const roots = sorted(shown.roots);
    const children = roots.map(node);
    roots.forEach((element, i) => {
      if (element.kind === "cluster") children[i].layoutOptions["elk.position"] = `(${1000 * i},0)`;
    });
    return {
      id: " root",
      layoutOptions: OPTIONS,
      children,
      edges: shown.arrows.map((arrow) => ({
        id: arrow.id,
        sources: [`out ${arrow.source.id}`],
        targets: [arrow.target.role === "total" ? "in total" : `in ${arrow.id}`],
      })),
    };
  }

  /** Boxes by id, points of arrows by id, and the size of it all. */
  function read(done) {
    const boxes = new Map();
    const walk = ({ id, x, y, width, height, children = [] }) => {
      boxes.set(id, { x, y, width, height });
      children.forEach(walk);
    };
    done.children.forEach(walk);
    const lines = new Map();
    for (const { id, sections = [] } of done.edges) {
      const [section] = sections;
      if (section)
        lines.set(id, [section.startPoint, ...(section.bendPoints ?? []), section.endPoint]);
    }
    return { boxes, lines, width: done.width, height: done.height };
  }

  const known = new Map();
  const KNOWN = 12; // layouts to which one comes back at once

  /** Where everything visible lies; `key` names what is visible. */
  async function place(key, shown, weights) {
    if (!known.has(key)) {
      engine ??= start();
      const done = await (await engine)(toGraph(shown, weights));
      known.set(key, read(done));
      if (known.size > KNOWN) known.delete(known.keys().next().value);
    }
    return known.get(key);
  }

  return { place };
})();
