// @ts-check
// Attention: a map of each head's weights, and a large one of the chosen head, which a click
// switches off.

import { range } from "../weights.js";
import { accent, by_id, element, percent } from "./dom.js";

const MOST_IN_MAP = 48; // characters in a heat map: more would be less than a pixel each

export class AttentionView {
  constructor(page) {
    this.page = page;
    this.maps = [];
    this.drawn = 0; // when
    this.named = ""; // what habit() was last computed for
    this.color = [0, 0, 0];
    this.large = by_id("head-map").getContext("2d");
    by_id("head-switch").addEventListener("click", () => page.switch_head());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page.draw_soon());
  }

  /** Make a map for each head of the network. */
  build() {
    const { n_layer, n_head } = this.page.data.config;
    this.maps = [];
    const label = (text) =>
      element("span", { class: "label", "aria-hidden": "true" }, text);
    const above = range(n_head).map((head) => label(head + 1));
    const rows = range(n_layer).map((layer) => {
      const maps = range(n_head).map((head) => this.new_map(layer, head));
      return element("div", { class: "layer" }, label(layer + 1), ...maps);
    });
    by_id("heads").style.setProperty("--heads", n_head);
    by_id("heads").replaceChildren(
      element("div", { class: "layer top" }, label(""), ...above), ...rows,
    );
  }

  new_map(layer, head) {
    const canvas = element("canvas", { width: MOST_IN_MAP, height: MOST_IN_MAP });
    const label = `layer ${layer + 1}, head ${head + 1}`;
    const button = element("button", { "aria-label": label }, canvas);
    button.addEventListener("click", () => this.page.choose_head(layer, head));
    this.maps.push({ layer, head, button, context: canvas.getContext("2d") });
    return button;
  }

  /** The characters that the one at `index` looks at in the chosen head; null if they are not
   *  kept. */
  weights(index) {
    const { layer, head } = this.page;
    const { attention, start } = this.page.text[index] ?? {};
    if (!attention?.length) return null;
    const seen = index - start + 1;
    const row = attention[layer].subarray(head * seen, (head + 1) * seen);
    return Array.from(row, (weight, i) => ({ index: start + i, weight }));
  }

  /** What a character looks at most: a sentence, as parts for append(). */
  describe(index) {
    const { page } = this;
    const name = (i) => element("bdi", {}, page.label(i));
    const weights = this.weights(index);
    const why = " has no attention weights: it has not been read, or too long ago to keep them.";
    if (!weights) return [name(index), why];
    const parts = [`In ${page.head_name()}, `, name(index), " looks at "];
    const most = weights.sort((a, b) => b.weight - a.weight).slice(0, 3);
    most.forEach(({ index: other, weight }, i) => {
      if (i) parts.push(i === most.length - 1 ? " and " : ", ");
      const distance = other === index ? "itself" : `${index - other} back`;
      parts.push(name(other), ` ${distance} (weight ${percent(weight)})`);
    });
    return [...parts, "."];
  }

  draw() {
    const { page } = this;
    // While the page writes, ten times a second is enough: in each frame, frames come late.
    if (page.pending && performance.now() - this.drawn < 100) return;
    this.drawn = performance.now();
    this.color = accent();
    const last = page.pointed_index();
    for (const { layer, head, button, context } of this.maps) {
      this.draw_map(context, layer, head, last);
      button.setAttribute("aria-pressed", layer === page.layer && head === page.head);
      button.classList.toggle("off", page.is_off(layer, head));
    }
    this.draw_map(this.large, page.layer, page.head, last);
    by_id("head-switch").setAttribute("aria-pressed", page.is_off(page.layer, page.head));
    by_id("head-off").textContent = page.describe_off();
    by_id("looks").hidden = page.shading === "attention"; // then it is below the text
    by_id("looks").replaceChildren(...(last >= 0 ? this.describe(last) : []));
    if (!page.pending) this.name_habit(); // while it writes, this would be too much for each frame
  }

  /** A pixel for each weight with which the characters up to `last` look at each other; the last
   *  one is at the right and the bottom. */
  draw_map(context, layer, head, last) {
    const [red, green, blue] = this.color;
    const size = MOST_IN_MAP;
    const image = context.createImageData(size, size);
    const first = Math.max(0, last - size + 1);
    const to_pixel = size - 1 - last;
    for (let index = first; index <= last; index++) {
      const { attention, start } = this.page.text[index];
      if (!attention) continue;
      const row = head * (index - start + 1) - start;
      for (let other = Math.max(start, first); other <= index; other++) {
        const at = 4 * ((index + to_pixel) * size + other + to_pixel);
        image.data[at] = red;
        image.data[at + 1] = green;
        image.data[at + 2] = blue;
        image.data[at + 3] = 255 * Math.sqrt(attention[layer][row + other]);
      }
    }
    context.putImageData(image, 0, 0);
  }

  name_habit() {
    const { page } = this;
    const key = [page.version, page.read_to, page.layer, page.head].join();
    if (key === this.named) return;
    this.named = key;
    const [habit, fraction] = this.habit();
    const name = page.head_name().replace("l", "L");
    const what = habit && `: ${percent(fraction)} of its weight is on ${habit}`;
    by_id("habit").textContent = `${name}${what}.`;
  }

  /** What the chosen head looks at most, and the fraction of all weights in this text that are on
   *  it. A character can be in several of these groups; the first character of a window is where a
   *  head looks that has found nothing. */
  habit() {
    const { text, data } = this.page;
    const is = (index, character) =>
      data.vocab[text[index]?.id] === character;
    const groups = {
      "the character itself": (index, other) => other === index,
      "the character before": (index, other) => other === index - 1,
      "the two characters before that": (index, other) => [2, 3].includes(index - other),
      "spaces": (_, other) => is(other, " "),
      "newlines": (_, other) => is(other, "\n"),
      "the first character of a line": (_, other) => is(other - 1, "\n"),
      "the start of the window": (index, other) => other === text[index].start,
    };
    const sums = Object.fromEntries(Object.keys(groups).map((name) => [name, 0]));
    let total = 0;
    for (let index = Math.max(0, text.length - 200); index < this.page.read_to; index++) {
      if (index - text[index].start < 8) continue; // it has little choice
      for (const { index: other, weight } of this.weights(index) ?? []) {
        total += weight;
        for (const name in groups) if (groups[name](index, other)) sums[name] += weight;
      }
    }
    if (!total) return ["", 0];
    const most = Object.keys(groups).reduce((a, b) => (sums[b] > sums[a] ? b : a));
    return sums[most] > total / 3 ? [most, sums[most] / total] : ["", 0];
  }
}
