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
    "elk.layered.spacing.nodeNodeBetweenLayers": "30",
    "elk.layered.spacing.edgeNodeBetweenLayers": "12",
    "elk.layered.spacing.edgeEdgeBetweenLayers": "9",
    "elk.layered.considerModelOrder.strategy": "PREFER_NODES",
    "elk.layered.nodePlacement.strategy": "BRANDES_KOEPF",
    "elk.layered.nodePlacement.bk.fixedAlignment": "BALANCED",
  };

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
  function sorted(roots) {
    const rank = (e) => (e.role === "batch" ? 0 : !e.children.length || e.kind === "box" ? 2 : e.role === "student" ? 3 : 1);
    return [...roots].sort((a, b) => rank(a) - rank(b));
  }

  function toGraph(shown, weights) {
    const ports = new Map();
    const incoming = new Map();
    for (const arrow of shown.arrows) {
      ports.set(arrow.source, true);
      const list = incoming.get(arrow.target) ?? [];
      list.push(arrow.id);
      incoming.set(arrow.target, list);
    }
    const node = (element) => {
      if (shown.folds.isOpen(element)) {
        const { width, head } = look.frame(element);
        return {
          id: element.id,
          layoutOptions: {
            "elk.padding": `[top=${head + 12},left=14,bottom=14,right=14]`,
            "elk.nodeSize.constraints": "MINIMUM_SIZE",
            "elk.nodeSize.minimum": `(${width},${head + 20})`,
          },
          children: element.children.map(node),
        };
      }
      const { width, height } = look.of(element, weights[element.edge]);
      const side = (id, where) => ({ id, width: 0, height: 0, layoutOptions: { "elk.port.side": where } });
      const made = (incoming.get(element) ?? []).map((id) => side(`in ${id}`, "NORTH"));
      if (element.role === "total" && made.length) made.splice(0, made.length, side("in total", "NORTH"));
      if (ports.has(element)) made.push(side(`out ${element.id}`, "SOUTH"));
      const options = { "elk.portConstraints": "FIXED_SIDE", "elk.portAlignment.default": "CENTER" };
      if (element.role === "batch") options["elk.layered.layering.layerConstraint"] = "FIRST";
      if (element.role === "total") options["elk.layered.layering.layerConstraint"] = "LAST";
      return { id: element.id, width, height, ports: made, layoutOptions: options };
    };
    return {
      id: " root",
      layoutOptions: OPTIONS,
      children: sorted(shown.roots).map(node),
      edges: shown.arrows.map((arrow) => ({
        id: arrow.id,
        sources: [`out ${arrow.source.id}`],
        targets: [arrow.target.role === "total" ? "in total" : `in ${arrow.id}`],
      })),
    };
  }

  /** Boxes by id, points of arrows by id, and the size of it all. */
  async function place(shown, weights) {
    engine ??= start();
    const done = await (await engine)(toGraph(shown, weights));
    const boxes = new Map();
    const walk = (node, depth) => {
      boxes.set(node.id, { x: node.x, y: node.y, width: node.width, height: node.height, depth });
      for (const child of node.children ?? []) walk(child, depth + 1);
    };
    for (const child of done.children) walk(child, 0);
    const lines = new Map();
    for (const edge of done.edges) {
      const [section] = edge.sections ?? [];
      if (section) {
        lines.set(edge.id, [section.startPoint, ...(section.bendPoints ?? []), section.endPoint]);
      }
    }
    return { shown, boxes, lines, width: done.width, height: done.height };
  }

  return { place };
})();
