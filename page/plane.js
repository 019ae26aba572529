// @ts-check
// The characters in a plane: which of them the network treats alike.

import { uniform } from "./generate.js";
import { range } from "./weights.js";

function dot(a, b, size = a.length, from_a = 0, from_b = 0) {
  let sum = 0;
  for (let i = 0; i < size; i++) sum += a[from_a + i] * b[from_b + i];
  return sum;
}

/** Project the rows of x (rows, size) onto the plane in which they differ most. fractions: of the
 *  variance, along both axes. The products of all pairs of rows have the positions as eigenvectors,
 *  which grow most when they are multiplied with them again and again. */
export function principal_components(x, rows, size) {
  const centred = Float32Array.from(x);
  for (let i = 0; i < size; i++) {
    let mean = 0;
    for (let row = 0; row < rows; row++) mean += x[row * size + i] / rows;
    for (let row = 0; row < rows; row++) centred[row * size + i] -= mean;
  }
  const products = Float32Array.from({ length: rows * rows }, (_, i) => {
    return dot(centred, centred, size, Math.floor(i / rows) * size, (i % rows) * size);
  });
  const variance = range(rows).reduce((sum, row) => sum + products[row * rows + row], 0);
  const axes = [0, 1].map((axis) => {
    let vector = Float32Array.from({ length: rows }, (_, row) => uniform(axis, row) - 0.5);
    let length = 0;
    for (let i = 0; i < 100; i++) {
      const next = vector.map((_, row) => dot(vector, products, rows, 0, row * rows));
      length = Math.hypot(...next) || 1;
      vector = next.map((entry) => entry / length);
    }
    // The next axis is at a right angle to this one.
    products.forEach((_, i) => {
      products[i] -= length * vector[Math.floor(i / rows)] * vector[i % rows];
    });
    return { entries: vector.map((entry) => entry * Math.sqrt(length)), length };
  });
  return {
    positions: range(rows).map((row) => axes.map(({ entries }) => entries[row])),
    fractions: axes.map(({ length }) => length / (variance || 1)),
  };
}

/** The characters `ids` in the plane in which their vectors, rows of table (V, size), differ most,
 *  each divided by its length; the mean cosines of two vowels, and of a vowel and a consonant. */
export function plane_of(table, size, { ids, vowels, consonants }) {
  const x = new Float32Array(ids.length * size);
  ids.forEach((id, row) => {
    const vector = table.subarray(id * size, (id + 1) * size);
    const length = Math.hypot(...vector) || 1;
    x.set(vector.map((entry) => entry / length), row * size);
  });
  const cosine = (a, b) => dot(x, x, size, ids.indexOf(a) * size, ids.indexOf(b) * size);
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
  const distances = [0, 1].map((axis) => {
    const values = positions.map((position) => position[axis]);
    return Math.max(...values) - Math.min(...values);
  });
  const room = Math.max(...distances, 1e-9) / 25;
  const noise = (i, axis) => (room / 1000) * uniform(axis, i); // two in one place part
  let moved = positions.map((position, i) => position.map((x, axis) => x + noise(i, axis)));
  for (let round = 0; round < 100; round++) {
    moved = moved.map(([x, y]) => {
      const push = [0, 0];
      for (const [other_x, other_y] of moved) {
        const distance = Math.hypot(x - other_x, y - other_y);
        if (distance === 0 || distance >= room) continue;
        push[0] += ((x - other_x) * (room / distance - 1)) / 2;
        push[1] += ((y - other_y) * (room / distance - 1)) / 2;
      }
      return [x + push[0], y + push[1]];
    });
  }
  return moved;
}
