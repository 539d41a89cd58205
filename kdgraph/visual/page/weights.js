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
    return typeof found === "number" ? say.number(found) : number.signal ?? number.words;
  };

  function moment() {
    const share = progress() / 100;
    if (!leg.epochs) return `${progress()} % of training`;
    return `epoch ${say.number(share * leg.epochs)} of ${leg.epochs}`;
  }

  /** Small, with a dot where training is. */
  function spark(number, width, height) {
    const at = dom.svg("svg", { class: "spark", width: width + 8, height: height + 8, viewBox: `-4 -4 ${width + 8} ${height + 8}`, "aria-hidden": "true" });
    at.append(
      dom.svg("path", { class: "axis", d: `M0,${height}H${width}` }),
      dom.svg("path", { class: "curve", d: draw.curve(number.curve, width, height) }),
      dom.svg("circle", { class: "now", r: 3 }),
    );
    return at;
  }

  function dot(spot, number, width, height) {
    const { low, span } = draw.range(number.curve);
    spot.setAttribute("cx", (progress() / 100) * width);
    spot.setAttribute("cy", height - ((number.curve[progress()] - low) / span) * height);
  }

  function row(name, number, kind) {
    const shown = dom.html("output", { class: "value", "data-value": name });
    const made = dom.html("div", { class: "weight-row", title: `${name}: ${number.words}`, "data-kind": kind },
      dom.html("span", { class: "name", dir: "auto" }, name), shown);
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
      if (curve) dot(curve.querySelector(".now"), number, 56, 16);
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
      text.textContent = `weight ${dom.shorten(says(number), look.FONTS.line, number.curve ? 60 : 150)}`;
      const spot = group.querySelector(".now");
      if (spot) dot(spot, number, 60, 15);
      const idle = value(number) === 0;
      group.classList.toggle("idle", idle);
      for (const { arrow, group: line } of drawn.arrows.values()) {
        if (arrow.source === element) line.classList.toggle("idle", idle);
      }
    }
  }

  slider.addEventListener("input", move);
  return { show, into, says, spark: (number) => {
    const made = spark(number, 200, 44);
    dot(made.querySelector(".now"), number, 200, 44);
    return made;
  }, whenMoved: (tell) => { onMove = tell; } };
})();
