// @ts-check
// The characters in the plane in which their vectors differ most.

import { by_id, element, new_plot, percent, svg, visible } from "./dom.js";

/** Which of the ids `frequent` are vowels and consonants; as in study/characters.py, accents do not
 *  matter. */
export function kinds_of({ vocab, frequent }) {
  const letter = (id) => vocab[id].normalize("NFD")[0];
  const small = frequent.filter((id) => /\p{Ll}/u.test(letter(id)));
  const vowels = small.filter((id) => "aeiou".includes(letter(id)));
  const consonants = small.filter((id) => !vowels.includes(id));
  return { ids: frequent, vowels, consonants };
}

/** The characters `ids` at their positions, see plane_of(). */
export function show_plane({ ids, positions, fractions, cosines }, data) {
  const { vocab, config } = data;
  by_id("dimensions").textContent = config.n_embd;
  const [height, margin] = [400, 16];
  const title = `${ids.length} characters along their first two principal components.`;
  const [plot, width] = new_plot("plane", height, title);
  const [across, up] = [0, 1].map((axis) => {
    const values = positions.map((position) => position[axis]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return { middle: (low + high) / 2, size: high - low || 1 };
  });
  // The same scale on both axes: what looks near is near.
  const scale = Math.min((width - 2 * margin) / across.size, (height - 2 * margin) / up.size);
  const { vowels } = kinds_of(data);
  positions.forEach(([a, b], i) => {
    const x = (width / 2 + (a - across.middle) * scale).toFixed(1);
    const y = (height / 2 - (b - up.middle) * scale).toFixed(1);
    const look = vowels.includes(ids[i]) ? "glyph vowels" : "glyph";
    plot.append(svg("text", { class: look, x, y }, visible(vocab[ids[i]])));
  });
  const [first, second] = fractions.map(percent);
  const [both, mixed] = [cosines.vowels, cosines.consonants].map((cosine) => cosine?.toFixed(2));
  const letters = !both || !mixed
    ? ""
    : ` Two vowels (bold) have a mean cosine of ${both}; a vowel and a consonant, ${mixed}. ` +
      "Nobody told the network which letters are vowels.";
  const parts =
    `The first component, from left to right, holds ${first} of the variance; the second, from ` +
    `bottom to top, ${second}.${letters}`;
  by_id("plane").append(element("p", { class: "note" }, parts));
}
