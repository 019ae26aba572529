// @ts-check
// Each part of the network in Python and in JavaScript, side by side.

import { all, by_id, element } from "./dom.js";

/** The function or class of a name in Python, "LayerNorm", in this page's program: class LayerNorm
 *  or function layer_norm, with its comment; undefined if there is none. */
function in_javascript(name) {
  const snake = name.replace(/(?<=[a-z])(?=[A-Z])/g, "_");
  const comment = "(?:^/\\*\\*(?:(?!\\*/)[^])*\\*/\n)?";
  const pattern = `${comment}^(?:function\\*?|class) (?:${name}|${snake})\\b[^]*?^}`;
  return new RegExp(pattern, "im").exec(by_id("program").textContent)?.[0];
}

/** @param {{[file: string]: {[name: string]: string}}} code */
export function show_code(code) {
  const pre = (label, text) =>
    element("pre", { tabindex: 0, "aria-label": label }, text.trim());
  for (const [file, parts] of Object.entries(code)) {
    for (const [name, python] of Object.entries(parts)) {
      const pair = element("div", { class: "pair" }, pre(`${name} in Python`, python));
      const javascript = in_javascript(name);
      if (javascript) {
        pair.classList.add("both");
        pair.append(pre(`${name} in JavaScript`, javascript));
      }
      const summary = element("summary", {}, `${file}: ${name}`);
      by_id("code").append(element("details", { id: `code-${name}` }, summary, pair));
    }
  }
  for (const place of all("[data-code]")) {
    const name = place.dataset.code;
    const file = Object.keys(code).find((one) => name in code[one]);
    const link = element("a", { href: `#code-${name}` }, name);
    link.addEventListener("click", (event) => {
      event.preventDefault(); // in a notebook's frame, the address is the notebook's
      by_id(`code-${name}`).open = true;
      by_id(`code-${name}`).scrollIntoView();
    });
    place.append(`${place.dataset.says ?? "Computed by"} `, link, ` in ${file}.`);
  }
}
