/* What stands in a box, and its size. Roles differ in letter and outline, not only colour. */
const look = (() => {
  const FAMILY = '"Inter","Helvetica Neue",Helvetica,Arial,"Liberation Sans",sans-serif';
  const font = (size, weight = 400) => `${weight} ${size}px ${FAMILY}`;
  const FONTS = { title: font(12.5, 600), line: font(11), chip: font(10), frame: font(13, 600) };

  const LETTERS = {
    batch: "B",
    teacher: "T",
    student: "S",
    adapter: "A",
    signal: "G",
    steer: "W",
    loss: "L",
    total: "Σ",
  };
  const NAMES = {
    batch: "batch entry",
    teacher: "teacher",
    student: "student",
    adapter: "adapter",
    signal: "signal",
    steer: "steered number",
    loss: "loss",
    total: "weighted total",
  };

  const PAD = 10;
  const LINE = 15;
  const CHIP = 16;
  const HEAD = 28;
  const SIDE_BY_SIDE = 150; // pixels of two lines that stand as one
  const WIDEST = { box: 230, group: 200, cluster: 260, node: 180 };

  /** Breaks a text at spaces into at most `rows` lines. */
  function wrap(text, limit, rows) {
    const lines = [];
    let rest = dom.clean(text).slice(0, 400);
    while (rest && lines.length < rows) {
      if (lines.length === rows - 1) {
        lines.push(dom.shorten(rest, FONTS.line, limit));
        break;
      }
      let line = "";
      for (const word of rest.split(/(?<= )/)) {
        if (line && dom.width((line + word).trimEnd(), FONTS.line) > limit) break;
        line += word;
      }
      rest = rest.slice(line.length);
      lines.push(dom.shorten(line.trimEnd(), FONTS.line, limit));
    }
    return lines;
  }

  function says(element) {
    if (element.kind === "node") return element.type === element.title ? [] : [element.type];
    if (element.kind === "cluster") return [`${element.nodes.length} nodes, folded`];
    if (element.kind === "group") return [element.type, `${element.nodes.length} nodes`];
    return element.lines;
  }

  /** Short lines side by side: what a box is, and the shape it makes. */
  function joined(texts) {
    const lines = [];
    for (const text of texts) {
      const both = lines.length ? `${lines.at(-1)}  ·  ${text}` : text;
      if (lines.length && dom.width(both, FONTS.line) <= SIDE_BY_SIDE)
        lines[lines.length - 1] = both;
      else lines.push(text);
    }
    return lines;
  }

  function chips(element, limit) {
    const made = [
      ...element.taps.map((text) => ({ text, kind: "tap" })),
      ...element.marks.map((text) => ({ text, kind: "mark" })),
    ];
    let [x, row] = [0, 0];
    for (const chip of made) {
      chip.shown = dom.shorten(chip.text, FONTS.chip, limit - 24);
      chip.width = Math.ceil(dom.width(chip.shown, FONTS.chip)) + (chip.kind === "tap" ? 22 : 12);
      if (x && x + chip.width > limit) [x, row] = [0, row + 1];
      [chip.x, chip.row] = [x, row];
      x += chip.width + 5;
    }
    return made;
  }

  /** Title, lines, chips and size of a folded box or a node, found once. */
  function of(element, weight) {
    if (element.look) return element.look;
    const limit = WIDEST[element.kind];
    const side = element.role === "signal" || element.role === "adapter" ? PAD + 5 : PAD;
    const redundant = weight ? `weight ${weight.words}` : null;
    const texts = says(element).filter((t) => t && t !== redundant && t !== element.title);
    const lines = joined(texts)
      .flatMap((text) => wrap(text, limit, 3))
      .slice(0, 5);
    const title = dom.shorten(element.title || element.id, FONTS.title, limit - 20);
    const made = chips(element, limit);
    const folds = element.children.length > 0;
    const head = 22 + dom.width(title, FONTS.title) + (folds ? 24 : 0);
    const widths = [head, ...lines.map((l) => dom.width(l, FONTS.line))];
    widths.push(
      ...made.map((chip) => chip.x + chip.width),
      weight?.curve ? 144 : 0,
      weight ? 96 : 0,
    );
    const rows = made.length ? made.at(-1).row + 1 : 0;
    const height =
      9 + 16 + lines.length * LINE + (rows ? 4 + rows * (CHIP + 3) : 0) + (weight ? 24 : 0) + 7;
    const width = Math.max(...widths) + 2 * side;
    element.look = {
      title,
      lines,
      chips: made,
      folds,
      side,
      weight: Boolean(weight),
      width: Math.ceil(Math.max(width, 64)),
      height: Math.ceil(height),
    };
    return element.look;
  }

  /** The least size of an unfolded frame: its title has to fit. */
  function frame(element) {
    const title = dom.shorten(element.title || element.id, FONTS.frame, 420);
    return { title, width: Math.ceil(dom.width(title, FONTS.frame)) + 74, head: HEAD };
  }

  /** The outline of a role as path data. */
  function outline(role, x, y, w, h) {
    const [right, below] = [x + w, y + h];
    const rounded = (r, b = r) =>
      `M${x + r},${y}H${right - r}a${r},${r} 0 0 1 ${r},${r}V${below - b}a${b},${b} 0 0 1 ${-b},${b}` +
      `H${x + b}a${b},${b} 0 0 1 ${-b},${-b}V${y + r}a${r},${r} 0 0 1 ${r},${-r}Z`;
    const cut = (c, at) =>
      `M${x + c},${y}H${right - c}L${right},${y + at}V${below - at}L${right - c},${below}` +
      `H${x + c}L${x},${below - at}V${y + at}Z`;
    if (role === "batch" || role === "steer") return rounded(Math.min(15, h / 2));
    if (role === "adapter") return cut(8, 8);
    if (role === "signal") return cut(9, h / 2);
    if (role === "loss") return rounded(4, Math.min(14, h / 2));
    return rounded(role === "total" ? 4 : 5);
  }

  return { FONTS, FAMILY, LETTERS, NAMES, PAD, LINE, CHIP, HEAD, of, frame, outline };
})();
