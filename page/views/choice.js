// @ts-check
// The probabilities of the next character, a bar for each, and how surprising it was.

import { by_probability, next_probabilities } from "../generate.js";
import { by_id, element, percent, visible } from "./dom.js";

const BARS = 12; // for the most likely characters; the others share one

export class ChoiceView {
  constructor(page) {
    this.page = page;
    for (const id of ["temperature", "top-k", "top-p", "seed"]) {
      by_id(id).addEventListener("input", () => page.change_settings());
    }
    // One more than the most likely characters: the chosen one may not be among them.
    this.rows = Array.from({ length: BARS + 1 }, () => this.new_row("button"));
    for (const row of this.rows) {
      row.body.addEventListener("click", () => page.choose(page.chosen_index(), row.id));
    }
    this.others = this.new_row("div");
    this.others.body.classList.add("others");
  }

  new_row(tag) {
    const name = element("bdi", { class: "name" });
    const bar = element("span", { class: "bar" });
    const track = element("span", { class: "track", "aria-hidden": "true" }, bar);
    const number = element("span", { class: "percent" });
    const mark = element("span", { class: "mark" });
    const body = element(tag, {}, name, track, number, mark);
    const item = by_id("bars").appendChild(element("li", {}, body));
    return { item, body, name, bar, number, mark };
  }

  draw() {
    const { page } = this;
    const index = page.chosen_index();
    const before = page.text[index - 1];
    by_id("choice").hidden = !before?.logits;
    if (!before?.logits) return;
    const { temperature, top_k, top_p } = page.settings;
    const probabilities = next_probabilities(before.logits, temperature, top_k, top_p);
    const bits = entropy(probabilities);
    by_id("entropy").textContent =
      `The entropy is ${bits.toFixed(2)} bits: as uncertain as a choice among ` +
      `${(2 ** bits).toFixed(1)} equally likely characters.`;
    by_id("bars-title").textContent = `Probability at temperature ${cuts(page.settings)}`;
    before.order ??= by_probability(before.logits);
    const chosen = page.text[index]?.id;
    const shown = before.order.slice(0, this.rows.length - 1);
    if (chosen !== undefined && !shown.includes(chosen)) shown.push(chosen);
    const word = this.word(page.text[index]?.origin);
    this.rows.forEach((row, rank) => {
      row.id = shown[rank];
      row.item.hidden = rank >= shown.length;
      if (row.item.hidden) return;
      const name = visible(page.data.vocab[row.id]);
      this.show(row, name, probabilities[row.id], row.id === chosen ? word : "");
      row.body.classList.toggle("cut", !probabilities[row.id]);
    });
    const rest = 1 - shown.reduce((sum, id) => sum + probabilities[id], 0);
    this.others.item.hidden = page.data.vocab.length <= shown.length;
    this.show(this.others, "rest", Math.max(0, rest), "");
  }

  /** Where the character comes from. If it was drawn from other probabilities than those that are
   *  shown now, say so. */
  word(origin) {
    if (typeof origin !== "object") return origin ?? "";
    return cuts(origin) === cuts(this.page.settings) ? "drawn" : `drawn at ${cuts(origin)}`;
  }

  show(row, name, probability, word) {
    row.name.textContent = name;
    row.bar.style.transform = `scaleX(${probability})`;
    row.number.textContent = probability ? percent(probability) : "0";
    row.mark.textContent = word;
    row.body.classList.toggle("chosen", word !== "");
  }
}

/** The settings of a draw, in words. */
function cuts({ temperature, top_k, top_p }) {
  const parts = [temperature.toFixed(2), top_k && `top-k ${top_k}`, top_p && `top-p ${top_p}`];
  return parts.filter(Boolean).join(", ");
}

/** In bits: log2(n) for n equal probabilities. */
function entropy(probabilities) {
  return probabilities.reduce((sum, p) => sum - (p > 0 ? p * Math.log2(p) : 0), 0);
}

export function show_surprise(page) {
  const shown = (loss) => (loss === null ? "–" : loss.toFixed(2));
  by_id("val-loss").textContent = shown(page.data.val_loss);
  by_id("mean-loss").textContent = shown(page.mean_loss());
}
