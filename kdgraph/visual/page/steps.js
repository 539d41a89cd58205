/* Which leg and which step of its compilation is shown. */
const steps = (() => {
  const legs = dom.at("leg");
  const list = dom.at("step");
  const [back, on] = [dom.at("step-back"), dom.at("step-on")];
  let onChange = () => {};

  const option = (text, value) => dom.html("option", { value: String(value) }, text);
  const lastOf = (leg) => leg.steps.length - 1;

  function titled(leg, index) {
    const { title } = leg.steps[index];
    if (!index || title === "as compiled") return title;
    return index === lastOf(leg) ? `as compiled (${title})` : `${index}. ${title}`;
  }

  function start(scene, tell) {
    onChange = tell;
    legs.replaceChildren(...scene.legs.map((leg, i) => option(leg.name ?? "all", i)));
    dom.at("leg-pick").hidden = scene.legs.length < 2;
    legs.addEventListener("change", () => tell({ leg: Number(legs.value) }));
    list.addEventListener("change", () => tell({ step: Number(list.value) }));
    back.addEventListener("click", () => move(-1));
    on.addEventListener("click", () => move(1));
  }

  function move(by) {
    const next = Number(list.value) + by;
    if (next >= 0 && next < list.options.length) onChange({ step: next });
  }

  function show(leg, legIndex, stepIndex) {
    legs.value = String(legIndex);
    list.replaceChildren(...leg.steps.map((s, i) => option(titled(leg, i), i)));
    list.value = String(stepIndex);
    back.disabled = stepIndex === 0;
    on.disabled = stepIndex === lastOf(leg);
  }

  return { start, show, move, lastOf };
})();
