// @ts-check
// One step of learning, looked into: a window of its batch, and one weight.

import { by_id, element, paint_matrix, percent, visible } from "./dom.js";

const DIGITS = 4; // of the numbers of a weight

export class StepView {
  constructor(page) {
    this.page = page;
    this.look = null; // see Training.step_closely
    this.row = by_id("look-row"); // of the weight that the reader picks, counted from 1
    this.column = by_id("look-column");
    for (const input of [this.row, this.column]) {
      input.addEventListener("input", () => this.show_weight());
    }
    by_id("look-map").addEventListener("click", ({ target, offsetX, offsetY }) => {
      this.column.value = Math.ceil((offsetX / target.clientWidth) * target.width) || 1;
      this.row.value = Math.ceil((offsetY / target.clientHeight) * target.height) || 1;
      this.show_weight();
    });
  }

  /** Offer the matrices of a network. */
  build(shapes) {
    const matrices = shapes.filter(([, shape]) => shape.length === 2);
    this.shapes = Object.fromEntries(matrices);
    const names = matrices.map(([name]) => name.replace(".weight", ""));
    by_id("look-matrix").replaceChildren(...names.map((name) => element("option", {}, name)));
    this.look = null;
    by_id("look").hidden = true;
  }

  show(look) {
    const other = this.look?.name !== look.name;
    this.look = { ...look, shape: this.shapes[`${look.name}.weight`] }; // without the padding
    const { gradient, loss, loss_after, shape } = this.look;
    [this.row.max, this.column.max] = shape;
    if (other) {
      const steeper = (most, x, i) => (Math.abs(x) > Math.abs(gradient[most]) ? i : most);
      const steepest = gradient.reduce(steeper, 0);
      this.row.value = Math.floor(steepest / shape[1]) + 1;
      this.column.value = (steepest % shape[1]) + 1;
    }
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
    const changes = before.map((weight, i) => Math.abs(after[i] - weight));
    const most = changes.reduce((a, b) => Math.max(a, b)) || 1;
    paint_matrix(by_id("look-map"), rows, columns, (row, column) => {
      return changes[row * columns + column] / most;
    });
  }

  show_weight() {
    if (!this.row.validity.valid || !this.column.validity.valid) return;
    const { before, gradient, after, name, shape } = this.look;
    const [row, column] = [this.row.value - 1, this.column.value - 1];
    const picked = row * shape[1] + column;
    const show = (id, number) =>
      (by_id(id).textContent = number.toPrecision(DIGITS).replace("-", "−"));
    show("look-value", before[picked]);
    show("look-slope", gradient[picked]);
    show("look-change", after[picked] - before[picked]);
    show("look-new", after[picked]);
    const muon = this.page.data.config.optimizer === "muon" && name.startsWith("blocks.");
    by_id("look-optimizer").textContent = muon ? "Muon" : "AdamW";
    const mark = by_id("look-mark").style;
    mark.left = `${(100 * (column + 0.5)) / shape[1]}%`;
    mark.top = `${(100 * (row + 0.5)) / shape[0]}%`;
  }
}
