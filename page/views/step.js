// @ts-check
// One step of learning, looked into: a window of its batch, and one weight.

import { accent, by_id, element, percent, visible } from "./dom.js";

const DIGITS = 4; // of the numbers of a weight

export class StepView {
  constructor(page) {
    this.page = page;
    this.look = null; // see Training.step_closely
    this.picked = 0; // which of the weights
    this.context = by_id("look-map").getContext("2d");
    by_id("look-next").addEventListener("click", () => page.next_step(by_id("look-matrix").value));
    by_id("look-map").addEventListener("click", (event) => {
      const { width, height, clientWidth, clientHeight } = by_id("look-map");
      const column = Math.floor((event.offsetX / clientWidth) * width);
      this.pick(Math.floor((event.offsetY / clientHeight) * height), column);
    });
    by_id("look-map").addEventListener("keydown", (event) => {
      const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const move = moves[event.key];
      if (!move || !this.look) return;
      event.preventDefault();
      const [row, column] = this.place();
      this.pick(row + move[0], column + move[1]);
    });
  }

  /** Offer the matrices of a network. */
  build(shapes) {
    const matrices = shapes.filter(([, shape]) => shape.length === 2);
    const names = matrices.map(([name]) => name.replace(".weight", ""));
    by_id("look-matrix").replaceChildren(...names.map((name) => element("option", {}, name)));
    this.look = null;
    by_id("look").hidden = true;
  }

  /** Which weight is picked: [row, column]. */
  place() {
    const columns = this.look.shape[1];
    return [Math.floor(this.picked / columns), this.picked % columns];
  }

  show(look) {
    const other = this.look?.name !== look.name;
    this.look = look;
    const { gradient, loss, loss_after } = look;
    const steeper = (most, x, i) => (Math.abs(x) > Math.abs(gradient[most]) ? i : most);
    if (other) this.picked = gradient.reduce(steeper, 0);
    by_id("look").hidden = false;
    by_id("look-loss").textContent = loss.toFixed(4);
    by_id("look-loss-after").textContent = loss_after.toFixed(4);
    this.show_window();
    this.draw_map();
    this.show_weight();
  }

  show_window() {
    const { vocab } = this.page.data;
    const { ids, probabilities } = this.look;
    const { before, after } = probabilities;
    const cells = Array.from(before, (p, t) => {
      const numbers = [p, after[t]].map((number) => element("span", {}, percent(number)));
      const name = element("bdi", {}, visible(vocab[ids[t + 1]]));
      return element("li", after[t] > p ? { class: "better" } : {}, name, ...numbers);
    });
    by_id("look-window").replaceChildren(...cells);
    by_id("look-first").textContent = visible(vocab[ids[0]]);
    by_id("look-better").textContent = before.filter((p, t) => after[t] > p).length;
    by_id("look-count").textContent = before.length;
  }

  /** A pixel for each weight, darker the more it changed. */
  draw_map() {
    const { before, after, shape } = this.look;
    const [rows, columns] = shape;
    Object.assign(by_id("look-map"), { width: columns, height: rows });
    const image = this.context.createImageData(columns, rows);
    const [red, green, blue] = accent();
    let most = 0;
    for (let i = 0; i < before.length; i++) most = Math.max(most, Math.abs(after[i] - before[i]));
    for (let i = 0; i < rows * columns; i++) {
      const size = Math.abs(after[i] - before[i]) / (most || 1);
      image.data.set([red, green, blue, 255 * Math.sqrt(size)], 4 * i);
    }
    this.context.putImageData(image, 0, 0);
  }

  pick(row, column) {
    if (!this.look) return;
    const [rows, columns] = this.look.shape;
    const inside = (i, size) =>
      Math.max(0, Math.min(size - 1, i));
    this.picked = inside(row, rows) * columns + inside(column, columns);
    this.show_weight();
  }

  show_weight() {
    const { before, gradient, after, name, shape } = this.look;
    const { picked, page } = this;
    const [row, column] = this.place();
    const show = (id, number) =>
      (by_id(id).textContent = number.toPrecision(DIGITS).replace("-", "−"));
    show("look-value", before[picked]);
    show("look-slope", gradient[picked]);
    show("look-change", after[picked] - before[picked]);
    show("look-new", after[picked]);
    const muon = page.data.config.optimizer === "muon" && name.startsWith("blocks.");
    by_id("look-optimizer").textContent = muon ? "Muon" : "AdamW";
    by_id("look-where").textContent = `Row ${row + 1}, column ${column + 1} of ${name}`;
    const mark = by_id("look-mark").style;
    mark.left = `${(100 * (column + 0.5)) / shape[1]}%`;
    mark.top = `${(100 * (row + 0.5)) / shape[0]}%`;
  }
}
