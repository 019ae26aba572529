// @ts-check
// What all views use: elements, and how numbers and characters are shown.

function complete(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children); // a string becomes text, never HTML
  return node;
}

/** @returns {any} */
export function element(tag, attributes = {}, ...children) {
  return complete(document.createElement(tag), attributes, children);
}

/** @returns {any} */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return complete(node, attributes, children);
}

/** @returns {any} */
export const by_id = (id) => document.getElementById(id);

/** All elements that a selector matches. @returns {any[]} */
export const all = (selector) => Array.from(document.querySelectorAll(selector));

/** As many units wide as the place has pixels, so that a phone's labels are not smaller. */
export function new_plot(id, height, title) {
  const width = Math.max(280, by_id(id).clientWidth);
  const look = { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title };
  const plot = svg("svg", look);
  by_id(id).replaceChildren(plot);
  return [plot, width];
}

export function percent(p) {
  if (p > 0 && p < 0.00005) return "<\u00a00.01\u00a0%";
  const digits = p >= 0.0995 ? 0 : p >= 0.001 ? 1 : 2;
  return `${(100 * p).toFixed(digits)}\u00a0%`; // a space at which no line ends
}

export const whole = (number) => number.toLocaleString("en-US");

/** A character as a label: a sign for a space or a newline, an escape for what has no shape or
 *  would change the direction of the text around it; a circle under an accent without a letter. */
export function visible(character, space = "␣") {
  if (character === " ") return space;
  if (character === "\n") return "↵";
  if (/[\p{C}\p{Z}]/u.test(character)) {
    return `\\u${character.codePointAt(0)?.toString(16).padStart(4, "0")}`;
  }
  return /\p{M}/u.test(character) ? `◌${character}` : character;
}

/** A text without what could change the direction of what is around it. */
export const plain = (text) => Array.from(text, (one) => visible(one, " ")).join("");

export const motion_is_reduced = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** The accent color as [red, green, blue]: a canvas knows no variables of CSS. */
export function accent() {
  const color = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
  return [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
}
