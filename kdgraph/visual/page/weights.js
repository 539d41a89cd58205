/* One slider over training: it moves every weight and every steered number that moves. */
const weights = (() => {
  const dock = dom.at("dock");
  const slider = dom.at("progress");
  const label = dom.at("progress-at");
  const list = dom.at("weights");
  let leg = null;
  let rows = [];
  let onMove = () => {};

  const progress = () => Number(slider.value);
  const value = (number) => (number.curve ? number.curve[progress()] : number.value);
  const says = (number) => {
    const found = value(number);
    return typeof found === "number" ? say.number(found) : (number.signal ?? number.words);
  };

  function moment() {
    const share = progress() / 100;
    if (!leg.epochs) return `${progress()} % of training`;
    return `epoch ${say.number(share * leg.epochs)} of ${leg.epochs}`;
  }

  /** A curve of its own, with a dot where training is. */
  function spark(number, width, height) {
    const [w, h] = [width + 8, height + 8];
    return dom.svg(
      "svg",
      { class: "spark", width: w, height: h, "aria-hidden": "true" },
      curve.spark(number.curve, 4, 4, width, height),
    );
  }

  function dot(spot, number) {
    const [x, y, w, h] = spot.dataset.at.split(" ").map(Number);
    const { low, span } = curve.range(number.curve);
    spot.setAttribute("cx", x + (progress() / 100) * w);
    spot.setAttribute("cy", y + h - ((number.curve[progress()] - low) / span) * h);
  }

  function row(name, number, kind) {
    const shown = dom.html("output", { class: "value", "data-value": name });
    const made = dom.html(
      "div",
      { class: "weight-row", title: `${name}: ${number.words}`, "data-kind": kind },
      dom.html("span", { class: "name", dir: "auto" }, name),
      shown,
    );
    const curve = number.curve ? spark(number, 56, 16) : null;
    if (curve) made.append(curve);
    return { name, number, shown, made, curve };
  }

  function show(next) {
    leg = next;
    const all = [
      ...Object.entries(leg.weights).map(([name, number]) => row(name, number, "weight")),
      ...Object.entries(leg.steered).map(([name, number]) => row(name, number, "steered")),
    ];
    rows = all;
    list.replaceChildren(...all.map((r) => r.made));
    const moves = all.some((r) => r.number.curve);
    slider.disabled = !moves;
    dock.hidden = !all.length;
    dock.classList.toggle("still", !moves);
    move();
  }

  function move() {
    label.textContent = slider.disabled ? "constant over training" : moment();
    slider.setAttribute("aria-valuetext", label.textContent);
    for (const { number, shown, curve } of rows) {
      shown.textContent = says(number);
      if (curve) dot(curve.querySelector(".now"), number);
    }
    onMove();
  }

  /** Writes the values of now into the boxes and arrows of a drawing. */
  function into(drawn) {
    if (drawn.leg !== leg) return; // that of another leg, about to go
    for (const { element, group } of drawn.byId.values()) {
      const number = leg.weights[element.edge];
      const text = number && group.querySelector(".weight-text");
      if (!text) continue;
      const room = number.curve ? 60 : 150;
      text.textContent = `weight ${dom.shorten(says(number), look.FONTS.line, room)}`;
      const spot = group.querySelector(".now");
      if (spot) dot(spot, number);
      const idle = value(number) === 0;
      group.classList.toggle("idle", idle);
      for (const { arrow, group: line } of drawn.arrows.values()) {
        if (arrow.source === element) line.classList.toggle("idle", idle);
      }
    }
  }

  slider.addEventListener("input", move);
  /** A large curve, for the panel. */
  function large(number) {
    const made = spark(number, 200, 44);
    dot(made.querySelector(".now"), number);
    return made;
  }

  const whenMoved = (tell) => {
    onMove = tell;
  };
  return { show, into, says, large, whenMoved };
})();
