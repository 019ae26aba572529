// @ts-check
// Attention: a map of each head's weights, and a large one of the chosen head, which a click
// switches off.

import { range } from "../weights.js";
import { by_id, element, paint_matrix, percent } from "./dom.js";

const MOST_IN_MAP = 48; // characters in a heat map: more would be less than a pixel each
const BETWEEN_MAPS = 100; // milliseconds, while the page writes: in each frame, frames come late

export class AttentionView {
  constructor(page) {
    this.page = page;
    this.maps = [];
    this.drawn = 0; // when
    by_id("head-switch").addEventListener("click", () => page.switch_head());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page.draw_soon());
  }

  /** Make a map for each head of the network. */
  build() {
    const { n_layer, n_head } = this.page.data.config;
    this.maps = [];
    const label = (text) => element("span", { class: "label", "aria-hidden": "true" }, text);
    const above = range(n_head).map((head) => label(head + 1));
    const rows = range(n_layer).map((layer) => {
      const maps = range(n_head).map((head) => this.new_map(layer, head));
      return element("div", { class: "layer" }, label(layer + 1), ...maps);
    });
    const top = element("div", { class: "layer top" }, label(""), ...above);
    by_id("heads").style.setProperty("--heads", n_head);
    by_id("heads").replaceChildren(top, ...rows);
  }

  new_map(layer, head) {
    const canvas = element("canvas");
    const button = element("button", { "aria-label": this.page.head_name(layer, head) }, canvas);
    button.addEventListener("click", () => this.page.choose_head(layer, head));
    this.maps.push({ layer, head, button, canvas });
    return button;
  }

  /** The characters that the one at `index` looks at in the chosen head; none if not kept. */
  weights(index) {
    const { layer, head } = this.page;
    const { attention, start } = this.page.text[index] ?? {};
    if (!attention) return [];
    const seen = index - start + 1;
    const row = attention[layer].subarray(head * seen, (head + 1) * seen);
    return Array.from(row, (weight, i) => ({ index: start + i, weight }));
  }

  /** What a character looks at most: a sentence, as parts for append(). */
  describe(index) {
    const { page } = this;
    const name = (i) => element("bdi", {}, page.label(i));
    const weights = this.weights(index);
    if (!weights.length) return [name(index), " has no weights: unread, or no longer kept."];
    const most = weights.sort((a, b) => b.weight - a.weight).slice(0, 3);
    const parts = most.flatMap(({ index: other, weight }, i) => {
      const distance = other === index ? "itself" : `${index - other} back`;
      return [i ? ", " : " ", name(other), ` ${distance} (weight ${percent(weight)})`];
    });
    return [`In ${page.head_name()}, `, name(index), " looks at", ...parts, "."];
  }

  draw() {
    const { page } = this;
    if (page.pending && performance.now() - this.drawn < BETWEEN_MAPS) return;
    this.drawn = performance.now();
    const last = page.pointed_index();
    for (const { layer, head, button, canvas } of this.maps) {
      this.draw_map(canvas, layer, head, last);
      button.setAttribute("aria-pressed", layer === page.layer && head === page.head);
      button.classList.toggle("off", page.is_off(layer, head));
    }
    this.draw_map(by_id("head-map"), page.layer, page.head, last);
    const off = page.is_off(page.layer, page.head);
    by_id("head-switch").setAttribute("aria-pressed", off);
    by_id("head-switch-label").textContent = off ? "Switch it on again" : "Switch this head off";
    by_id("head-off").textContent = this.describe_off();
  }

  /** A pixel for each weight with which the characters up to `last` look at each other; the last
   *  one is at the right and the bottom. */
  draw_map(canvas, layer, head, last) {
    const { text } = this.page;
    const first = last - MOST_IN_MAP + 1;
    paint_matrix(canvas, MOST_IN_MAP, MOST_IN_MAP, (row, column) => {
      const [index, other] = [first + row, first + column];
      const { attention, start } = text[index] ?? {};
      if (!attention || other < start || other > index) return 0;
      return attention[layer][head * (index - start + 1) + other - start];
    });
  }

  describe_off() {
    const { page } = this;
    const loss = page.mean_loss();
    if (!page.off.size || loss === null || page.read_to < page.text.length) return "";
    const names = [...page.off].map((name) => page.head_name(...name.split(".").map(Number)));
    const before = page.loss_with_all?.toFixed(3);
    const and_before = before ? `; with all heads, ${before}` : "";
    const without = `Without ${names.join(" and ")}, the text's mean surprise is`;
    return `${without} ${loss.toFixed(3)} nats${and_before}.`;
  }
}
