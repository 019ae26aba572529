// @ts-check
// The text, a character at a time, shaded by surprise or by attention.

import { all, by_id, element, percent, visible } from "./dom.js";

export const DARKEST = 5; // nats: the surprise of a probability of 0.7 %, shaded most

export class TextView {
  constructor(page) {
    this.page = page;
    this.box = by_id("text");
    this.spans = [];
    this.lit = new Set(); // spans that attention lights
    const label = "the next character, not drawn yet";
    const caret = { class: "character caret", role: "option", "aria-label": label };
    this.caret = element("span", caret, "▏");
    this.caret_line = element("div", { class: "line", role: "presentation" }); // for it alone
    this.marked = null; // the span that is selected
    this.to_show = false; // whether it is to be scrolled into sight
    this.shaded = 0; // how many characters are shaded by their surprise
    this.box.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse") page.hover(this.index_of(event.target));
    });
    this.box.addEventListener("pointerleave", () => page.hover(-1));
    this.box.addEventListener("click", (event) => {
      const index = this.index_of(event.target);
      if (index >= 0) page.point(index);
    });
    this.box.addEventListener("keydown", (event) => this.press(event));
    for (const radio of all("[name=shading]")) {
      radio.addEventListener("change", () => page.shade_by(radio.value));
    }
  }

  index_of(span) {
    return span === this.caret ? this.spans.length : this.spans.indexOf(span);
  }

  press(event) {
    const { page } = this;
    const at = page.chosen_index();
    const targets = {
      ArrowLeft: at - 1,
      ArrowRight: at + 1,
      Home: 0,
      End: page.text.length,
    };
    if (!(event.key in targets) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    page.hover(-1);
    page.point(targets[event.key]);
    this.to_show = true;
  }

  /** Everything is to be shaded again. */
  reshade() {
    by_id(`shade-${this.page.shading}`).checked = true;
    for (const span of this.spans) span.style.removeProperty("--shade");
    this.lit.clear();
    this.shaded = 0;
  }

  truncate(length) {
    this.caret.remove();
    this.caret_line.remove();
    while (this.spans.length > length) this.spans.pop().remove();
    while (this.box.lastElementChild?.hasChildNodes() === false) this.box.lastElementChild.remove();
    this.lit.clear();
    this.shaded = Math.min(this.shaded, length);
  }

  append(index) {
    const { text, data, prompt_length } = this.page;
    const character = data.vocab[text[index].id];
    const shown = visible(character, " ");
    const span = element("span", { class: "character", role: "option" }, shown);
    if (shown !== character) span.classList.add("escape");
    if (index < prompt_length) span.classList.add("prompt");
    if (this.page.origins[index] === "yours") span.classList.add("yours");
    if (index === 0 || data.vocab[text[index - 1].id] === "\n") {
      this.box.append(element("div", { class: "line", dir: "auto", role: "presentation" }));
    }
    this.box.lastElementChild.append(span);
    this.spans.push(span);
  }

  draw() {
    const { page, box } = this;
    const follows = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
    const more = this.spans.length < page.text.length;
    this.caret.remove();
    this.caret_line.remove();
    while (this.spans.length < page.text.length) this.append(this.spans.length);
    const last = page.text.at(-1);
    if (!last || page.data.vocab[last.id] === "\n") box.append(this.caret_line);
    box.lastElementChild.append(this.caret);
    if (page.shading === "surprise") this.shade_surprise();
    else this.shade_attention();
    this.mark(page.chosen_index());
    if (more && follows && page.follows()) box.scrollTop = box.scrollHeight;
    const index = page.pointed_index();
    by_id("readout").replaceChildren(...(index < 0 ? [] : this.describe(index)));
  }

  /** Show which character is selected. */
  mark(index) {
    const span = this.spans[index] ?? this.caret;
    if (this.marked !== span) {
      this.marked?.classList.remove("selected");
      this.marked?.removeAttribute("id");
      this.marked?.removeAttribute("aria-selected");
      span.classList.add("selected");
      span.id = "selected-character";
      span.setAttribute("aria-selected", "true");
      this.box.setAttribute("aria-activedescendant", span.id);
      this.marked = span;
    }
    if (span !== this.caret) {
      const words = this.describe_surprise(index).map((part) => part.textContent ?? part);
      span.setAttribute("aria-label", words.join(""));
    }
    if (this.to_show) span.scrollIntoView({ block: "nearest" });
    this.to_show = false;
  }

  /** A sentence about a character, as parts for append(). */
  describe(index) {
    const { shading, attention_view } = this.page;
    return shading === "attention" ? attention_view.describe(index) : this.describe_surprise(index);
  }

  describe_surprise(index) {
    const name = element("bdi", {}, this.page.label(index));
    const surprise = this.page.surprise(index);
    if (index === 0) return [name, " has no probability: nothing comes before it."];
    if (surprise === null) return [name, " has no probability: the network has not predicted it."];
    const p = percent(Math.exp(-surprise));
    const nats = surprise.toFixed(2);
    return [name, ` had a probability of ${p} at temperature 1: a surprise of ${nats} nats.`];
  }

  shade_surprise() {
    for (; this.shaded < this.page.read_to; this.shaded++) {
      const surprise = this.page.surprise(this.shaded);
      if (surprise === null) continue;
      const shade = Math.min(1, surprise / DARKEST).toFixed(3);
      this.spans[this.shaded].style.setProperty("--shade", shade);
    }
  }

  shade_attention() {
    for (const span of this.lit) span.style.removeProperty("--shade");
    this.lit.clear();
    const weights = this.page.attention_view.weights(this.page.pointed_index());
    weights?.forEach(({ index, weight }) => {
      if (weight < 0.002) return;
      // The square root: else small weights could not be seen.
      this.spans[index].style.setProperty("--shade", Math.sqrt(weight).toFixed(3));
      this.lit.add(this.spans[index]);
    });
  }
}
