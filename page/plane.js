// @ts-check
// The characters in a plane: which of them the network treats alike.

import { uniform } from "./generate.js";

function dot(a, b, size = a.length, from_a = 0, from_b = 0) {
  let sum = 0;
  for (let i = 0; i < size; i++) sum += a[from_a + i] * b[from_b + i];
  return sum;
}

/** Project the rows onto the plane in which they differ most. fractions: of the variance, along
 *  both axes. The products of all pairs of rows have the positions as eigenvectors, which grow most
 *  when they are multiplied with them again and again.
 *  @param {ArrayLike<number>} x (rows, size) */
export function principal_components(x, rows, size) {
  const centred = Float32Array.from(x);
  for (let i = 0; i < size; i++) {
    let mean = 0;
    for (let row = 0; row < rows; row++) mean += x[row * size + i] / rows;
    for (let row = 0; row < rows; row++) centred[row * size + i] -= mean;
  }
  const products = new Float32Array(rows * rows);
  for (let row = 0; row < rows; row++) {
    for (let other = 0; other < rows; other++) {
      products[row * rows + other] = dot(centred, centred, size, row * size, other * size);
    }
  }
  let variance = 0;
  for (let row = 0; row < rows; row++) variance += products[row * rows + row];
  const axes = [0, 1].map((axis) => {
    let vector = Float32Array.from({ length: rows }, (_, row) => uniform(axis, row) - 0.5);
    let length = 0;
    for (let i = 0; i < 100; i++) {
      const next = vector.map((_, row) => dot(vector, products, rows, 0, row * rows));
      length = Math.hypot(...next) || 1;
      vector = next.map((entry) => entry / length);
    }
    // The next axis is at a right angle to this one.
    for (let i = 0; i < products.length; i++) {
      products[i] -= length * vector[Math.floor(i / rows)] * vector[i % rows];
    }
    return { positions: vector.map((entry) => entry * Math.sqrt(length)), length };
  });
  return {
    positions: Array.from(axes[0].positions, (a, row) => [a, axes[1].positions[row]]),
    fractions: axes.map(({ length }) => length / (variance || 1)),
  };
}

/** The characters `ids` in the plane in which their vectors differ most, each divided by its
 *  length; and the mean cosines of two vowels, and of a vowel and a consonant.
 *  @param {Float32Array} table (V, size) */
export function plane_of(table, size, { ids, vowels, consonants }) {
  const x = new Float32Array(ids.length * size);
  ids.forEach((id, row) => {
    const vector = table.subarray(id * size, (id + 1) * size);
    const length = Math.hypot(...vector) || 1;
    x.set(vector.map((entry) => entry / length), row * size);
  });
  const cosine = (a, b) => {
    const [from_a, from_b] = [a, b].map((id) => ids.indexOf(id) * size);
    return dot(x, x, size, from_a, from_b);
  };
  const mean = (some, others) => {
    const pairs = some.flatMap((a) => others.filter((b) => b !== a).map((b) => cosine(a, b)));
    return pairs.length ? pairs.reduce((a, b) => a + b, 0) / pairs.length : null;
  };
  const cosines = { vowels: mean(vowels, vowels), consonants: mean(vowels, consonants) };
  const { positions, fractions } = principal_components(x, ids.length, size);
  return { ids, positions: spread(positions), fractions, cosines };
}

/** Move positions apart until hardly any two labels overlap: each pushes away those that are nearer
 *  than a twenty-fifth of the largest distance along an axis. */
export function spread(positions) {
  const range = (axis) => {
    const values = positions.map((position) => position[axis]);
    return Math.max(...values) - Math.min(...values);
  };
  const room = Math.max(range(0), range(1), 1e-9) / 25;
  const noise = (i, axis) => (room / 1000) * uniform(axis, i); // two in one place part
  positions = positions.map((position, i) => position.map((x, axis) => x + noise(i, axis)));
  for (let round = 0; round < 100; round++) {
    const pushes = positions.map(([x, y]) => {
      let [right, up] = [0, 0];
      for (const [other_x, other_y] of positions) {
        const [dx, dy] = [x - other_x, y - other_y];
        const distance = Math.sqrt(dx * dx + dy * dy);
        if (distance === 0 || distance >= room) continue;
        right += (dx * (room / distance - 1)) / 2;
        up += (dy * (room / distance - 1)) / 2;
      }
      return [right, up];
    });
    positions = positions.map(([x, y], i) => [x + pushes[i][0], y + pushes[i][1]]);
  }
  return positions;
}
