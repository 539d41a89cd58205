/* The search box: hits by title, path and name; Enter walks through them. */
const search = (() => {
  const MOST = 40;
  const box = dom.at("search");
  const list = dom.at("hits");
  const status = dom.at("found");
  let elements = [];
  let hits = [];
  let current = -1;
  let goTo = () => {};
  let onFound = () => {};

  function find() {
    const asked = box.value.trim().toLowerCase();
    hits = asked ? elements.filter((e) => (e.words ??= model.words(e)).includes(asked)) : [];
    current = -1;
    status.textContent = asked ? (hits.length ? `${hits.length}` : "none") : "";
    list.replaceChildren(...hits.slice(0, MOST).map((element, index) => entry(element, index)));
    list.hidden = !hits.length;
    onFound();
  }

  function entry(element, index) {
    const path = element.path || element.frame?.title || "";
    return dom.html(
      "li",
      {},
      dom.html(
        "button",
        {
          type: "button",
          tabindex: "-1",
          "data-role": element.role,
          onclick: () => step(index - current),
        },
        dom.html("span", { class: "badge" }, look.LETTERS[element.role] ?? "?"),
        dom.html("bdi", { class: "name" }, element.title || element.id),
        dom.html("bdi", { class: "path" }, path === element.title ? "" : path),
      ),
    );
  }

  function step(by) {
    if (!hits.length) return;
    current = (current + by + hits.length) % hits.length;
    status.textContent = `${current + 1}/${hits.length}`;
    [...list.children].forEach((li, i) => li.classList.toggle("current", i === current));
    list.children[current]?.scrollIntoView({ block: "nearest" });
    goTo(hits[current]);
  }

  function start(tell, found) {
    goTo = tell;
    onFound = found;
    box.addEventListener("input", find);
    box.addEventListener("focus", () => {
      list.hidden = !hits.length;
    });
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        step(event.shiftKey ? -1 : 1);
        event.preventDefault();
      } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        step(event.key === "ArrowDown" ? 1 : -1);
        event.preventDefault();
      } else if (event.key === "Escape") {
        box.value = "";
        find();
        box.blur();
      }
    });
    document.addEventListener("pointerdown", (event) => {
      if (!dom.at("find").contains(event.target)) list.hidden = true;
    });
  }

  /** What is searched from now on. */
  function over(byId) {
    elements = [...byId.values()];
    if (box.value) find();
    list.hidden = document.activeElement !== box || !hits.length;
  }

  const isHit = (element) => hits.includes(element);
  return { start, over, isHit, focus: () => box.select() };
})();
