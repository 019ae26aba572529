// @ts-check
// What all views use: elements, and how numbers, characters and matrices are shown.

/** @returns {(tag, attributes?: object, ...children) => any} */
const maker_in = (namespace) => (tag, attributes = {}, ...children) => {
  const node = document.createElementNS(namespace, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children); // a string becomes text, never HTML
  return node;
};

export const element = maker_in("http://www.w3.org/1999/xhtml");
export const svg = maker_in("http://www.w3.org/2000/svg");

/** @returns {any} */
export const by_id = (id) => document.getElementById(id);

/** All elements that a selector matches. @returns {any[]} */
export const all = (selector) => Array.from(document.querySelectorAll(selector));

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

const MOST_NAMED = 12; // characters that a sentence lists

/** Which characters of a text a network leaves out, because it has no ids for them: a sentence, or
 *  nothing. */
export function describe_left_out(characters, ids) {
  const unknown = characters.filter((one) => !ids.has(one));
  if (!unknown.length) return "";
  const names = [...new Set(unknown)].map((one) => visible(one));
  const list = names.slice(0, MOST_NAMED).join(" ");
  return `Left out, never seen in training: ${list} (${whole(unknown.length)} of the characters).`;
}

/** Paint a pixel for each entry of a matrix in the canvas's color, darker for a larger entry.
 *  entry(row, column): from 0 to 1. */
export function paint_matrix(canvas, rows, columns, entry) {
  Object.assign(canvas, { width: columns, height: rows });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const [red, green, blue] = getComputedStyle(canvas).color.match(/\d+/g).map(Number);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      // The square root: else small entries could not be seen.
      const opacity = 255 * Math.sqrt(entry(row, column));
      image.data.set([red, green, blue, opacity], 4 * (row * columns + column));
    }
  }
  context.putImageData(image, 0, 0);
}
