// @ts-check
// The text, a character at a time, shaded by surprise or by attention.

import { all, by_id, element, percent, visible } from "./dom.js";

const DARKEST = 5; // nats: the surprise of a probability of 0.7 %, shaded most

export class TextView {
  constructor(page) {
    this.page = page;
    this.box = by_id("text");
    this.spans = []; // one for each character
    const label = "the next character, not drawn yet";
    const caret = { class: "character caret", role: "option", "aria-label": label };
    this.caret = element("span", caret, "▏");
    this.selected = null; // the span that is marked
    this.add_line();
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
    const targets = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: page.text.length };
    if (!(event.key in targets) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    page.hover(-1);
    page.point(targets[event.key]);
  }

  /** What a character looks like: its class and its text. */
  look(one) {
    const character = this.page.data.vocab[one.id];
    const text = visible(character, " ");
    const origin = typeof one.origin === "string" ? one.origin : "drawn";
    return { name: `character ${origin}${text === character ? "" : " escape"}`, text };
  }

  add_line() {
    this.box.append(element("div", { class: "line", dir: "auto", role: "presentation" }));
  }

  append({ name, text }) {
    const span = element("span", { class: name, role: "option" }, text);
    this.box.lastElementChild.append(span);
    this.spans.push(span);
    if (text === "↵" && name.includes("escape")) this.add_line();
  }

  remove_last() {
    const span = this.spans.pop();
    while (this.box.lastElementChild !== span.parentElement) this.box.lastElementChild.remove();
    span.remove();
  }

  draw() {
    const { page, box, spans } = this;
    const follows = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
    const looks = page.text.map((one) => this.look(one));
    const is_shown = ({ name, text }, i) =>
      spans[i]?.className === name && spans[i].textContent === text;
    const changed = looks.findIndex((look, i) => !is_shown(look, i));
    const same = changed < 0 ? looks.length : changed;
    while (spans.length > same) this.remove_last();
    for (const look of looks.slice(same)) this.append(look);
    box.lastElementChild.append(this.caret);
    by_id(`shade-${page.shading}`).checked = true;
    this.shades().forEach((shade, i) => {
      const shown = shade.toFixed(3);
      if (spans[i].shade === shown) return;
      spans[i].shade = shown;
      spans[i].style.setProperty("--shade", shown);
    });
    this.mark(page.chosen_index());
    const more = same < looks.length;
    if (more && follows && page.selected === null) box.scrollTop = box.scrollHeight;
    const index = page.pointed_index();
    const view = page.shading === "attention" ? page.attention_view : this;
    by_id("readout").replaceChildren(...(index < 0 ? [] : view.describe(index)));
  }

  /** Of each character, from 0 to 1. */
  shades() {
    const { text, shading, attention_view } = this.page;
    if (shading === "surprise") {
      return text.map((_, i) => Math.min(1, this.page.surprise(i) / DARKEST));
    }
    const shades = text.map(() => 0);
    for (const { index, weight } of attention_view.weights(this.page.pointed_index())) {
      shades[index] = Math.sqrt(weight); // else small weights could not be seen
    }
    return shades;
  }

  /** Show which character is selected. */
  mark(index) {
    const span = this.spans[index] ?? this.caret;
    if (span !== this.selected) {
      for (const name of ["id", "aria-selected"]) this.selected?.removeAttribute(name);
      span.id = "selected-character";
      span.setAttribute("aria-selected", "true");
      this.box.setAttribute("aria-activedescendant", span.id);
      this.selected = span;
      if (document.activeElement === this.box) span.scrollIntoView({ block: "nearest" });
    }
    if (span === this.caret) return;
    const words = this.describe(index).map((part) => part.textContent ?? part);
    span.setAttribute("aria-label", words.join(""));
  }

  /** How much a character surprises: a sentence, as parts for append(). */
  describe(index) {
    const name = element("bdi", {}, this.page.label(index));
    const surprise = this.page.surprise(index);
    if (index === 0) return [name, " has no probability: nothing comes before it."];
    if (surprise === null) return [name, " has no probability: the network has not predicted it."];
    const p = percent(Math.exp(-surprise));
    const nats = surprise.toFixed(2);
    return [name, ` had a probability of ${p} at temperature 1: a surprise of ${nats} nats.`];
  }
}
